//! Pure kernels over byte slices: unmasking and UTF-8.

/// XORs `bytes` in place with `mask`, beginning at mask byte `phase & 3`. Returns whether all bytes
/// are ASCII afterwards.
pub fn unmask(bytes: &mut [u8], mask: [u8; 4], phase: usize) -> bool {
    let mut or = 0;
    for (i, byte) in bytes.iter_mut().enumerate() {
        *byte ^= mask[(phase + i) & 3];
        or |= *byte;
    }
    or < 0x80
}

/// Bytes that are not UTF-8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidUtf8;

/// Streaming UTF-8 validation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Utf8 {
    pending: [u8; 3],
    len: u8,
}

impl Utf8 {
    /// Takes the next bytes of the text.
    pub fn validate(&mut self, mut bytes: &[u8]) -> Result<(), InvalidUtf8> {
        while self.len > 0 {
            let Some((&next, rest)) = bytes.split_first() else { return Ok(()) };
            bytes = rest;
            let mut character = [self.pending[0], self.pending[1], self.pending[2], 0];
            character[self.len as usize] = next;
            let len = self.len as usize + 1;
            match std::str::from_utf8(&character[..len]) {
                Ok(_) => self.len = 0,
                Err(error) if error.error_len().is_none() => {
                    self.pending = [character[0], character[1], character[2]];
                    self.len = len as u8;
                }
                Err(_) => return Err(InvalidUtf8),
            }
        }
        if let Err(error) = std::str::from_utf8(bytes) {
            if error.error_len().is_some() {
                return Err(InvalidUtf8);
            }
            let tail = &bytes[error.valid_up_to()..];
            self.pending[..tail.len()].copy_from_slice(tail);
            self.len = tail.len() as u8;
        }
        Ok(())
    }

    /// Unmasks in place and takes the bytes.
    pub fn unmask_validate(
        &mut self,
        bytes: &mut [u8],
        mask: [u8; 4],
        phase: usize,
    ) -> Result<(), InvalidUtf8> {
        unmask(bytes, mask, phase);
        self.validate(bytes)
    }

    /// Nothing pending?
    pub fn finish(self) -> Result<(), InvalidUtf8> {
        if self.len == 0 { Ok(()) } else { Err(InvalidUtf8) }
    }
}

/// Whether a whole text is UTF-8, unmasked in place.
pub fn unmask_validate_whole(bytes: &mut [u8], mask: [u8; 4], phase: usize) -> bool {
    unmask(bytes, mask, phase) || std::str::from_utf8(bytes).is_ok()
}
