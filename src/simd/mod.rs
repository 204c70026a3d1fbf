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
