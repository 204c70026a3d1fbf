//! tokio-tungstenite within tokio-rustls as an echo server, one thread, tuned as `baseline-tungstenite` is.
//!
//! `baseline-tungstenite-tls PORT CERT KEY [READ_BUFFER_BYTES]`, the certificate and its key in PEM

use futures_util::{FutureExt, SinkExt, StreamExt};
use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_tungstenite::accept_async_with_config;
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

async fn echo(stream: TcpStream, tls: TlsAcceptor, config: WebSocketConfig) -> Result<(), Error> {
    stream.set_nodelay(true)?;
    let stream = tls.accept(stream).await?;
    let mut socket = accept_async_with_config(stream, Some(config)).await?;
    loop {
        let next = match socket.next().now_or_never() {
            Some(next) => next,
            None => {
                // Everything that was there is answered.
                socket.flush().await?;
                socket.next().await
            }
        };
        match next.transpose()? {
            Some(message) if message.is_text() || message.is_binary() => socket.feed(message).await?,
            Some(_) => {}
            None => return Ok(()),
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let argument = |n: usize| std::env::args().nth(n);
    let port: u16 = argument(1).expect("PORT").parse()?;
    let chain = CertificateDer::pem_file_iter(argument(2).expect("CERT"))?.collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_file(argument(3).expect("KEY"))?;
    let read_buffer_bytes = argument(4).map_or(Ok(128 << 10), |text| text.parse())?;
    let config = WebSocketConfig::default().read_buffer_size(read_buffer_bytes);
    let tls = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key)?;
    let tls = TlsAcceptor::from(Arc::new(tls));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(("127.0.0.1", port)).await?;
        // A local set would do as well; `spawn` on this runtime stays on this thread.
        loop {
            let (stream, _) = listener.accept().await?;
            tokio::spawn(echo(stream, tls.clone(), config));
        }
    })
}
