//! The corpora's first inputs, made here so that they follow the targets' layouts.

use ringwire::ws::client::ClientHandshake;
use ringwire::ws::{CloseCode, Kind, Opcode, encode_close, encode_fragment, encode_message, encode_ping};

/// Target and input of every seed.
pub fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let mut seeds = Vec::new();
    let mut add = |target, layout: &[u8], bytes: &[u8]| seeds.push((target, [layout, bytes].concat()));
    for head in HEADS {
        // 16 KiB and 64 fields at most, in small reads.
        add("request_head", &[2 | 2 << 2, 2, 0], head.as_bytes());
        add("engine_sim", &[0, 0, 0, 0], &[&[13, 1, head.len() as u8], head.as_bytes()].concat());
    }
    for header in PROXY_HEADERS {
        add("proxy_header", &[], header);
    }
    for value in EXTENSIONS {
        add("extension_header", &[1], value.as_bytes());
    }
    add("extension_header", &[0x1f], b"a; b=\"c\", ");
    add("extension_header", &[2], b"chat, superchat,, x-y.z");
    for origin in [
        "http://server.example:8080",
        "https://SERVER.example:08080",
        "http://server.example",
        "http://other.example:8080",
    ] {
        add("extension_header", &[4], origin.as_bytes());
    }
    for answer in ANSWERS {
        add("client_answer", &[0, 2, 0], answer.as_bytes());
    }
    add(
        "client_answer",
        &[1, 0, 0],
        b"\x0eserver.example\x04chat\x00\x04chat\x01\x10https://app.test\x02\x06Cookie\x03a=b",
    );
    for (flags, mask) in
        [(0, Some([0; 4])), (0, Some([0x37, 0xfa, 0x21, 0x3d])), (1, None), (2, Some([0; 4]))]
    {
        for stream in conversations(mask) {
            add("frame_decode", &[flags | 2 << 2, 2, 0], &stream);
            if mask.is_some() {
                add("engine_sim", &[0, 0, 0, 0], &open_and_say(&stream));
            }
        }
    }
    for input in DEFLATED {
        add("deflate", &[], input);
    }
    for ops in SESSIONS {
        add("session_ops", &[], ops);
    }
    for ops in SERVICES {
        add("engine_sim", &[0, 7, 7, 0x39], ops);
    }
    seeds
}

/// Both versions, with and without addresses, a TLV and a checksum that is wrong.
const PROXY_HEADERS: [&[u8]; 6] = [
    b"PROXY TCP4 192.0.2.7 192.0.2.1 50000 443\r\nGET / HTTP/1.1\r\n",
    b"PROXY TCP6 2001:db8::7 ::1 50000 443\r\n",
    b"PROXY UNKNOWN\r\n",
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x13\xc0\x00\x02\x07\xc0\x00\x02\x01\xc3\x50\x01\xbb\x02\x00\x04a.io",
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x13\xc0\x00\x02\x07\xc0\x00\x02\x01\xc3\x50\x01\xbb\x03\x00\x04\0\0\0\0",
    b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00",
];

/// What a peer may send, for one mask.
fn conversations(mask: Option<[u8; 4]>) -> Vec<Vec<u8>> {
    let text = "Grüße, 世界 😀";
    let mut streams = vec![Vec::new(); 7];
    encode_message(&mut streams[0], Kind::Text, text.as_bytes(), mask);
    encode_message(&mut streams[0], Kind::Binary, &[0; 126], mask);
    encode_close(&mut streams[0], Some(CloseCode::NORMAL), "done", mask);
    encode_fragment(&mut streams[1], Opcode::Text, false, &text.as_bytes()[..3], mask);
    encode_ping(&mut streams[1], b"beat", mask);
    encode_fragment(&mut streams[1], Opcode::Continuation, false, b"", mask);
    encode_fragment(&mut streams[1], Opcode::Continuation, true, &text.as_bytes()[3..], mask);
    encode_message(&mut streams[2], Kind::Binary, &[7; 2_000], mask);
    encode_close(&mut streams[2], None, "", mask);
    encode_message(&mut streams[3], Kind::Text, b"\xf4\x90", mask);
    encode_fragment(&mut streams[4], Opcode::Binary, false, b"x", mask);
    encode_message(&mut streams[4], Kind::Text, b"inside", mask);
    streams[5].extend_from_slice(&[0x82, if mask.is_some() { 0xff } else { 0x7f }]);
    streams[5].extend_from_slice(&[0x80, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0]);
    // A length in a longer form than it needs.
    streams[6].extend_from_slice(&[0x82, if mask.is_some() { 0xfe } else { 0x7e }, 0, 2, 0, 0, 0, 0, 0, 0]);
    streams
}

/// For `engine_sim`: a peer that opens a WebSocket and says this.
fn open_and_say(bytes: &[u8]) -> Vec<u8> {
    let mut ops = vec![0];
    for part in bytes.chunks(200) {
        ops.extend_from_slice(&[1, part.len() as u8]);
        ops.extend_from_slice(part);
    }
    ops
}

/// The request of a client, for `engine_sim` itself.
pub fn upgrade_request() -> Vec<u8> {
    let client = ClientHandshake::new("server.example", "/", *b"the sample nonce").expect("host and path");
    let mut request = Vec::new();
    client.write_request(&mut request);
    request
}

const HEADS: [&str; 10] = [
    "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "\r\nGET /chat?room=7 HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET / HTTP/1.0\r\n\r\n",
    "POST /x HTTP/1.1\r\nHost: [::1]:80\r\nContent-Length: 3\r\n\r\nabcHEAD / HTTP/1.1\r\nHost: b\r\n\r\n",
    "GET http://a.example:80/p?q HTTP/1.1\r\nHost: b\r\nCookie: session=\"1\"; x=2\r\n\r\n",
    "OPTIONS * HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
    "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\nExpect: 100-continue\r\nContent-Length: 70\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: a\r\nhost: b\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: a\r\n Folded: x\r\nX:\ty \r\n\r\n",
    "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: h2c, websocket\r\nConnection: keep-alive, Upgrade\r\n\
     Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nOrigin: http://a\r\n\r\n",
    "GET /c HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 8\r\n\
     Sec-WebSocket-Protocol: chat, superchat\r\nSec-WebSocket-Extensions: permessage-deflate; a=\"b\"\r\n\r\n",
];

const EXTENSIONS: [&str; 6] = [
    "permessage-deflate",
    "permessage-deflate; client_max_window_bits; server_max_window_bits=10",
    "permessage-deflate; server_no_context_takeover, permessage-deflate; client_max_window_bits=\"15\"",
    ",, a ;b= \"c\\d\" ,\t",
    "a; b=\"\"",
    "a; b=\"\\",
];

const ANSWERS: [&str; 6] = [
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
     Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: chat\r\n\r\n\x01\x00",
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\n\
     Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\
     Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n",
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
     Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xO0=\r\n\r\n",
    "HTTP/1.1 302 Found\r\nLocation: https://elsewhere.example/\r\n\r\n",
    "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno",
    "\r\nHTTP/1.0 200 OK\r\n\r\n",
];

/// For `deflate`: the streams of RFC 7692 §7.2.3, messages that come back, conversations, offers.
const DEFLATED: [&[u8]; 9] = [
    b"\x14\x02\x00\xf2\x48\xcd\xc9\xc9\x07\x00",
    b"\x14\x01\x00\xf3\x48\xcd\xc9\xc9\x07\x00\x00",
    b"\x14\x02\x00\x00\x05\x00\xfa\xff\x48\x65\x6c\x6c\x6f\x00",
    b"\x14\x02\x00\xf2\x48\x05\x00\x00\x00\xff\xff\xca\xc9\xc9\x07\x00",
    b"\x01\x00\x00\x06\x0f\x01\x05hello\x03\x05hello\x09\x00\x00\x03abc\xff",
    b"\x01\x00\x00\x01\x00\x00\x05hello\x03\x05hello\x09\x00\x00\x03abc\xff",
    b"\x02\x02\x00\x03\x70\x00\x50\x05hello\x51\x05hello\x12\x03abc\x5d\x02xy\x05\x00",
    b"\x02\x01\x00\x00\xff\x40\x50\x05hello\xf1\x05hello\x02\x00",
    b"\x03\x00\x00\x0f\x0f\x01\x0a\x08\x01\x03permessage-deflate; client_max_window_bits; server_max_window_bits=8, \
      permessage-deflate; server_no_context_takeover",
];

/// For `session_ops`: text and echo, fragments with a ping, close from both ends, damage.
const SESSIONS: [&[u8]; 4] = [
    b"\x80\x05hello\xc4\x00\x00\x04\x00\x00",
    b"\x88\x0agr\xc3\xbc\xc3\x9fe hi\x03\x02hm\x84\x02\x00\x04\x01\x00\x83\x00\x03bye\x84\x00\x00",
    b"\x03\x01\x02by\x83\x00\x02ok\x04\x00\x00\x84\x00\x00",
    b"\x81\x07\x20\x01\x86\x02\x00\x40\x85\x09\x06\x00\x87\x01\x00\x04\x03\x81\x00\x00\x84\x00\x00",
];

/// For `engine_sim`: orders to the handler, backpressure, faults, deadlines, outbound connections, ends.
const SERVICES: [&[u8]; 8] = [
    b"\x00\x02\x05hello\x0a\x04\x05abcde\x02\x44\x03xyz\x01\x0a\x02\x02!x\x0a\x0b\x10",
    b"\x00\x00\x10\x03\x00\x02\x03abc\x03\x02\x94\x06stream\x03\x0a\x08\x03\x00\x0c\x00\x8c\x01\x0a",
    b"\x00\x06\x02\x03*\x30x\x02\x03*\x30y\x0b\x20\x07\x0a\x2b\x04\x0a",
    b"\x00\x09\x03\x02\x03*\x09x\x12\x03*\x09y\x1b\x09\x05\x1b\xff\x2b\xff\x2b\xff",
    b"\x00\x02\x02@\x01\x0a\x03\x01\x0e\x0a\x02\x03abc\x0a\x0f\x04ping\x1f\x00\x03bye\x0a\xec\x00",
    b"\x0d\x01\x30GET /large HTTP/1.1\r\nHost: server.example\r\n\r\n\x0a\x00\x1f\x00\x00\x0a\x88",
    b"\x80\x53\x06abcabc\x0a\x53\x06abcabc\x02\x02hi\x0a\x81\x03\xc1\x85\x00\x0a\x0b\x05\x1f\x00\x00\x0a",
    b"\x90\xe3\x06abcabc\x0a\xb0\xe3\x06abcabc\x0a\x33\x06xyzxyz\x03\x00\x63\x02zz\x0a\x08\x0a",
];

#[cfg(test)]
mod tests {
    use super::seeds;
    use crate::TARGETS;

    #[test]
    fn every_seed_passes_and_every_target_has_some() {
        let seeds = seeds();
        for (name, run) in TARGETS {
            let inputs: Vec<_> = seeds.iter().filter(|(target, _)| *target == name).collect();
            assert!(inputs.len() >= 3, "{name} has {} seeds", inputs.len());
            inputs.iter().for_each(|(_, input)| run(input));
        }
        assert!(seeds.iter().all(|(target, _)| TARGETS.iter().any(|(name, _)| name == target)));
        let bytes: usize = seeds.iter().map(|(_, input)| input.len()).sum();
        assert!(bytes < 100_000, "{bytes} bytes of seeds");
    }
}
