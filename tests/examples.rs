//! The examples do what they say: each is started and talked to.

use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tungstenite::stream::MaybeTlsStream;
use tungstenite::{Message, WebSocket};

const PATIENCE: Duration = Duration::from_secs(20);

/// A running example. Killed when dropped.
struct Example {
    child: Child,
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
        BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut line).expect("a line");
        let said = line.split(|c: char| c.is_whitespace() || c == ',').find(|word| word.starts_with("ws://"));
        let url = said.unwrap_or_else(|| panic!("no address: {line:?}")).trim_end_matches(':').to_owned();
        Self { child, url }
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
            if let Message::Text(text) = self.0.read().expect("a message") {
                return serde_json::from_str(&text).expect("JSON");
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
