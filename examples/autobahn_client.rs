//! ringwire's client role under the Autobahn|Testsuite: runs every case of a fuzzing server, one
//! connection after the other, and has it write its report.
//!
//! `AUTOBAHN_ADDR=127.0.0.1:9002 cargo run --example autobahn_client -- uring` after
//! `wstest -m fuzzingserver`, or all at once with `tests/autobahn/client`. A second argument,
//! `compressed`, makes it offer permessage-deflate, as the cases 12.* and 13.* ask for.

use ringwire::{
    ClientRequest, CloseReason, Compression, Conn, ConnId, ConnectError, DeflateConfig, DriverChoice,
    Handler, Limits, Message, Request, SendResult, Server, Shard, Upgrade,
};
use std::error::Error;
use std::net::SocketAddr;
use std::process::exit;
use std::time::Duration;

/// What one connection is for.
#[derive(Clone, Copy, Debug)]
enum Step {
    Count,
    Case(u32),
    Report,
}

struct Client {
    fuzzer: SocketAddr,
    agent: String,
    cases: u32,
    next: Option<Step>,
    report_at: Option<Duration>,
    done: bool,
}

/// The fuzzing server notes a case's result only when the case's connection is gone at its end too.
const PAUSE_BEFORE_REPORT: Duration = Duration::from_secs(1);

impl Client {
    fn request(&self, step: Step) -> ClientRequest {
        let agent = &self.agent;
        let path = match step {
            Step::Count => "/getCaseCount".to_owned(),
            Step::Case(number) => format!("/runCase?case={number}&agent={agent}"),
            Step::Report => format!("/updateReports?agent={agent}"),
        };
        ClientRequest { path, ..ClientRequest::default() }
    }
}

impl Handler for Client {
    type State = Step;

    fn upgrade(&mut self, _request: &Request<'_>) -> Upgrade<Step> {
        unreachable!("this server listens nowhere")
    }

    fn message(&mut self, conn: &mut Conn<'_, Step>, message: Message<'_>) {
        match (*conn.state(), message) {
            (Step::Count, Message::Text(text)) => self.cases = text.parse().expect("a number of cases"),
            (Step::Case(number), _) => {
                let result = conn.send(message);
                assert!(!matches!(result, SendResult::Dropped), "case {number} fills the outbox");
            }
            _ => {}
        }
    }

    fn close(&mut self, _id: ConnId, step: Step, _reason: CloseReason<'_>) {
        self.next = match step {
            Step::Count if self.cases == 0 => None,
            Step::Count => Some(Step::Case(1)),
            Step::Case(number) if number < self.cases => Some(Step::Case(number + 1)),
            Step::Case(_) => Some(Step::Report),
            Step::Report => None,
        };
        self.done = self.next.is_none();
    }

    fn connect_failed(&mut self, step: Step, error: ConnectError) {
        eprintln!("{step:?}: {error:?}");
        exit(1);
    }

    fn turn(&mut self, shard: &mut Shard<'_, Step>) -> Option<Duration> {
        if self.done {
            shard.stop();
        }
        if let Some(Step::Report) = self.next {
            let report_at = *self.report_at.get_or_insert(shard.now() + PAUSE_BEFORE_REPORT);
            if shard.now() < report_at {
                return Some(report_at - shard.now());
            }
        }
        if let Some(step) = self.next.take() {
            shard.connect(self.fuzzer, self.request(step), step);
        }
        None
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let driver: DriverChoice = std::env::args().nth(1).as_deref().unwrap_or("auto").parse()?;
    let fuzzer: SocketAddr = std::env::var("AUTOBAHN_ADDR").as_deref().unwrap_or("127.0.0.1:9001").parse()?;
    // Cases 9.* send messages of 16 MiB.
    let limits = Limits { max_message_bytes: 16 << 20, max_outbox_bytes: 64 << 20, ..Limits::default() };
    let compression = match std::env::args().nth(2).as_deref() {
        Some("compressed") => Compression::Deflate(DeflateConfig::default()),
        _ => Compression::Off,
    };
    // Not pinned: the fuzzing server, a single thread as well, needs most of a core.
    let server = Server::builder()
        .shards(1)
        .cores([])
        .driver(driver)
        .limits(limits)
        .compression(compression)
        .bind()?;
    let agent = format!("client-{}", server.driver());
    server.run(|_shard| Client {
        fuzzer,
        agent: agent.clone(),
        cases: 0,
        next: Some(Step::Count),
        report_at: None,
        done: false,
    })?;
    Ok(())
}
