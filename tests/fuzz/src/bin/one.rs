fn main() {
    ringwire_fuzz::engine_sim::run(&std::fs::read(std::env::args().nth(1).unwrap()).unwrap());
}
