//! PROXY protocol headers out of arbitrary bytes: what is said of them does not depend on how they come.

use ringwire::http::parse_proxy;

/// Input: what a proxy sends.
pub fn run(data: &[u8]) {
    let whole = parse_proxy(data);
    for cut in 0..data.len().min(600) {
        match (parse_proxy(&data[..cut]), whole) {
            // Nothing is known yet.
            (Ok(None), _) => {}
            // What is known stays so.
            (Ok(Some(header)), Ok(Some(same))) => assert!(header == same && header.bytes <= cut),
            (Err(_), Err(_)) => {}
            (early, late) => panic!("after {cut} bytes {early:?}, in the end {late:?}"),
        }
    }
    if let Ok(Some(header)) = whole {
        assert!((15..=data.len()).contains(&header.bytes));
        assert_eq!(parse_proxy(&data[..header.bytes]), whole, "what follows is none of its business");
        assert_eq!(parse_proxy(&data[..header.bytes - 1]), Ok(None), "its last byte is needed");
    }
}
