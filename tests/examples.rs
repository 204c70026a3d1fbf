//! The examples do what they say: each is started and talked to.

use serde_json::{Value, json};
use std::io::{self, BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;
use tungstenite::stream::MaybeTlsStream;
use tungstenite::{Message, WebSocket};

const PATIENCE: Duration = Duration::from_secs(20);

/// A running example. Killed when dropped.
struct Example {
    child: Child,
    _stdout: BufReader<ChildStdout>,
    /// `ws://127.0.0.1:PORT`
    url: String,
}

impl Example {
    /// Starts an example, which takes its address as its argument and prints it first.
    fn start(name: &str) -> Self {
        // cargo builds examples beside the folder of tests.
        let test = std::env::current_exe().expect("this test");
        let folder: PathBuf = test.ancestors().nth(2).expect("target/PROFILE").join("examples");
        let mut child = Command::new(folder.join(name))
            .arg("127.0.0.1:0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{name}: {error}; `cargo build --examples` builds it"));
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        stdout.read_line(&mut line).expect("a line");
        let said = line.split(|c: char| c.is_whitespace() || c == ',').find(|word| word.starts_with("ws://"));
        let url = said.unwrap_or_else(|| panic!("no address: {line:?}")).trim_end_matches(':').to_owned();
        Self { child, _stdout: stdout, url }
    }

    fn open(&self, path: &str) -> Client {
        let (mut socket, _) = tungstenite::connect(format!("{}{path}", self.url)).expect("a WebSocket");
        let MaybeTlsStream::Plain(stream) = socket.get_mut() else { unreachable!() };
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        Client(socket)
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Client(WebSocket<MaybeTlsStream<std::net::TcpStream>>);

impl Client {
    fn say(&mut self, message: Value) {
        self.0.send(Message::text(message.to_string())).expect("it is taken");
    }

    fn hear(&mut self) -> Value {
        loop {
            match self.0.read() {
                Ok(Message::Text(text)) => return serde_json::from_str(&text).expect("JSON"),
                Ok(_) => {}
                // The process was stopped for a while.
                Err(tungstenite::Error::Io(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => panic!("{error}"),
            }
        }
    }
}

#[test]
fn rpc_answers_each_request_once() {
    let rpc = Example::start("rpc");
    let mut client = rpc.open("/");
    client.say(json!({ "id": 1, "method": "sleep", "params": [300] }));
    client.say(json!({ "id": 2, "method": "sleep", "params": [60] }));
    client.say(json!({ "id": 2, "method": "sleep", "params": [60] }));
    client.say(json!({ "id": 3, "method": "add", "params": [1, 2, 3.5] }));
    client.say(json!({ "id": 4, "method": "fly" }));
    assert_eq!(client.hear(), json!({ "id": 2, "error": "this id is out already" }));
    assert_eq!(client.hear(), json!({ "id": 3, "result": 6.5 }));
    assert_eq!(client.hear()["error"], "the methods are add and sleep");
    assert_eq!(client.hear(), json!({ "id": 2, "result": 60 }));
    assert_eq!(client.hear(), json!({ "id": 1, "result": 300 }));
    client.say(json!({ "id": 5, "method": "sleep", "params": [2500] }));
    assert_eq!(client.hear(), json!({ "id": 5, "error": "timed out" }));
    client.say(json!({ "method": "add" }));
    assert!(client.hear()["error"].is_string());
    // The late result of 5 is not heard: the next is.
    client.say(json!({ "id": 6, "method": "sleep", "params": [800] }));
    assert_eq!(client.hear(), json!({ "id": 6, "result": 800 }));
}
#[test]
fn chat_keeps_to_rooms_and_remembers_the_last_word() {
    let chat = Example::start("chat");
    let mut ann = chat.open("/lobby?name=Ann");
    let mut bob = chat.open("/lobby?name=Bob");
    assert_eq!(ann.hear(), json!({ "joined": "Bob" }));
    let mut cat = chat.open("/attic?name=C%C3%A4t");
    ann.0.send(Message::text("Hi, 世界")).expect("it is taken");
    let said = json!({ "name": "Ann", "text": "Hi, 世界" });
    assert_eq!((ann.hear(), bob.hear()), (said.clone(), said.clone()));
    cat.0.send(Message::text("alone")).expect("it is taken");
    assert_eq!(cat.hear(), json!({ "name": "Cät", "text": "alone" }));
    // Who comes later hears the last word of the room.
    let mut dan = chat.open("/lobby?name=Dan");
    assert_eq!(dan.hear(), said);
    assert_eq!(ann.hear(), json!({ "joined": "Dan" }));
    drop(dan);
    assert_eq!(ann.hear(), json!({ "left": "Dan" }));
    for nameless in ["/lobby", "/lobby?name=", "/a/b?name=Ann", "/lobby?name=%zz"] {
        assert!(tungstenite::connect(format!("{}{nameless}", chat.url)).is_err(), "{nameless}");
    }
}

#[test]
fn ticker_gives_who_is_slow_the_newest_prices() {
    let ticker = Example::start("ticker");
    let addr: std::net::SocketAddr = ticker.url.trim_start_matches("ws://").parse().expect("an address");
    // A host that takes little at a time, so that the wait is at the server.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    socket.set_recv_buffer_size(16 << 10).expect("a small buffer");
    socket.connect(&addr.into()).expect("it is taken");
    let stream = MaybeTlsStream::Plain(std::net::TcpStream::from(socket));
    let (mut slow, _) = tungstenite::client(ticker.url.as_str(), stream).expect("a WebSocket");
    let mut quick = ticker.open("/");
    let numbers = (0..1_000).map(|_| quick.hear()["n"].as_u64().expect("a number"));
    let numbers: Vec<u64> = numbers.collect();
    assert!(numbers.is_sorted(), "{numbers:?}");
    std::thread::sleep(Duration::from_secs(4));
    let newest = ticker.open("/").hear()["n"].as_u64().expect("a number");
    // What the hosts' kernels held is old; what the server held is not.
    let (mut heard, mut last) = (0, 0);
    while last < newest {
        let Ok(Message::Text(text)) = slow.read() else { panic!("the ticker has ended it") };
        let message: Value = serde_json::from_str(&text).expect("JSON");
        last = message["n"].as_u64().unwrap_or(0).max(last);
        heard += 1;
    }
    let skipped = last - heard;
    assert!(skipped > 10_000, "{skipped} prices were skipped in 4 s of 50,000 a second");
}

#[test]
fn presence_is_told_once_and_letters_reach_all_connections_of_a_user() {
    let presence = Example::start("presence");
    let mut ann = presence.open("/?user=ann");
    assert_eq!(ann.hear(), json!({ "online": "ann", "users": 1 }));
    let mut bob = [(); 3].map(|()| presence.open("/?user=bob"));
    assert_eq!(ann.hear(), json!({ "online": "bob", "users": 2 }));
    for peer in &mut bob {
        peer.say(json!({ "to": "nobody", "text": "" }));
        while peer.hear() != json!({ "to": "nobody", "connections": 0 }) {}
    }
    ann.say(json!({ "to": "bob", "text": "hello" }));
    assert_eq!(ann.hear(), json!({ "to": "bob", "connections": 3 }));
    for peer in &mut bob {
        assert_eq!(peer.hear(), json!({ "from": "ann", "text": "hello" }));
    }
    drop(bob);
    assert_eq!(ann.hear(), json!({ "offline": "bob", "users": 1 }));
}
