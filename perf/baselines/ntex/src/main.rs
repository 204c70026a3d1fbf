//! ntex as an echo server on its io_uring runtime (neon-uring), one worker, as its own tests set up a
//! WebSocket. Text is checked, as RFC 6455 §8.1 wants; the frames of a message are answered
//! one by one. Frames beyond 64 KiB it refuses, and its web framework has no setting for that.
//!
//! `baseline-ntex PORT`

use ntex::service::{fn_factory_with_config, fn_service};
use ntex::util::ByteString;
use ntex::web::{self, App, HttpRequest, HttpServer, ws};
use std::io;

async fn answer(frame: ws::Frame) -> Result<Option<ws::Message>, io::Error> {
    Ok(match frame {
        ws::Frame::Text(text) => {
            let text = ByteString::try_from(text).map_err(|_| io::Error::other("text is not UTF-8"))?;
            Some(ws::Message::Text(text))
        }
        ws::Frame::Binary(bytes) => Some(ws::Message::Binary(bytes)),
        ws::Frame::Ping(bytes) => Some(ws::Message::Pong(bytes)),
        ws::Frame::Close(reason) => Some(ws::Message::Close(reason)),
        // Text in parts goes unchecked: it may be cut within a character.
        ws::Frame::Continuation(part) => Some(ws::Message::Continuation(part)),
        ws::Frame::Pong(_) => None,
    })
}

async fn upgrade(request: HttpRequest) -> Result<web::HttpResponse, web::Error> {
    let sockets = fn_factory_with_config(|_| async { Ok::<_, web::Error>(fn_service(answer)) });
    ws::start::<_, _, &str, web::Error>(request, None, sockets).await
}

#[ntex::main]
async fn main() -> io::Result<()> {
    let port: u16 = std::env::args().nth(1).and_then(|text| text.parse().ok()).expect("PORT");
    HttpServer::new(async || App::new().service(web::resource("/").route(web::to(upgrade))))
        .workers(1)
        .bind(("127.0.0.1", port))?
        .run()
        .await
}
