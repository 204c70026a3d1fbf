//! The far end of a connection that the service opened: a WebSocket server by hand.

use crate::peer::Peer;

/// The request's head, as the far end gets it.
pub fn request(peer: &mut Peer) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.extend(peer.take(1));
    }
    String::from_utf8(head).unwrap()
}

/// The value of `Sec-WebSocket-Accept` for the key in a request.
pub fn accept_for(head: &str) -> String {
    use ringwire::http::{HEADER_SLOT, parse_request};
    let mut slots = [HEADER_SLOT; 20];
    let head = parse_request(head.as_bytes(), &mut slots).unwrap();
    let offer = ringwire::ws::handshake::evaluate(&head, &ringwire::OriginPolicy::Any).unwrap();
    String::from_utf8(offer.accept_key().to_vec()).unwrap()
}

pub fn switch(accept: &str) -> String {
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n"
    )
}

/// The next frame of a client: first byte, mask, payload unmasked.
pub fn client_frame(peer: &mut Peer) -> (u8, [u8; 4], Vec<u8>) {
    let head = peer.take(2);
    assert!(head[1] & 0x80 != 0, "a client masks");
    assert!(head[1] & 0x7f < 126, "short frames only, here");
    let mask: [u8; 4] = peer.take(4).try_into().unwrap();
    let mut payload = peer.take(usize::from(head[1] & 0x7f));
    payload.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
    (head[0], mask, payload)
}
