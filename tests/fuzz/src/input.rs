//! Choices out of fuzz input: small numbers and slices from its front, zeros when it is spent.

use ringwire::sim::SimRng;

/// What is left of an input.
pub struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub fn new(data: &'a [u8]) -> Self {
        Self(data)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn byte(&mut self) -> u8 {
        match self.0.split_first() {
            Some((&byte, rest)) => {
                self.0 = rest;
                byte
            }
            None => 0,
        }
    }

    pub fn u16(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    /// A number below `bound`, which is at most 256.
    pub fn below(&mut self, bound: usize) -> usize {
        usize::from(self.byte()) % bound
    }

    /// One of these.
    pub fn pick<T: Copy, const N: usize>(&mut self, from: [T; N]) -> T {
        from[self.below(N)]
    }

    /// A length in the first byte, then as many bytes as there are of it.
    pub fn slice(&mut self) -> &'a [u8] {
        let len = usize::from(self.byte()).min(self.0.len());
        let (slice, rest) = self.0.split_at(len);
        self.0 = rest;
        slice
    }

    /// The same as text; what is no UTF-8 is replaced.
    pub fn text(&mut self) -> String {
        String::from_utf8_lossy(self.slice()).into_owned()
    }

    pub fn rest(self) -> &'a [u8] {
        self.0
    }
}

/// `bytes` in reads: whole, byte by byte, in small reads or in any, as `cut` says.
pub fn reads(bytes: &[u8], cut: u16) -> Vec<&[u8]> {
    let most = match cut % 4 {
        0 => usize::MAX,
        1 => 1,
        2 => 9,
        _ => bytes.len() / 2 + 1,
    };
    let mut rng = SimRng::new(u64::from(cut));
    let (mut reads, mut rest) = (Vec::new(), bytes);
    while !rest.is_empty() {
        let most = most.min(rest.len());
        let len = if cut.is_multiple_of(4) { most } else { rng.between(1, most as u64) as usize };
        let (read, after) = rest.split_at(len);
        reads.push(read);
        rest = after;
    }
    reads
}
