//! TLS records sealed and opened by the kernel (Linux' `Documentation/networking/tls.rst`).
//!
//! Knows descriptors and what setsockopt(2) wants. The contract: whoever hands keys over has seen to it that
//! what was sealed before is in the socket, and that what is to be opened is still there.

use std::io;
use std::os::fd::RawFd;

use super::{MAX_RECORD_CONTENT_BYTES, sys};

/// A cipher of TLS records that the kernel knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordCipher {
    /// AES-128-GCM.
    Aes128Gcm,
    /// AES-256-GCM.
    Aes256Gcm,
    /// ChaCha20-Poly1305.
    Chacha20Poly1305,
}

/// Which half of a connection keys are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Half {
    /// What is sent from here on.
    Sending,
    /// What is received from here on.
    Receiving,
}

/// The keys of one half of a TLS connection, and where its records stand.
#[derive(Clone, Copy)]
pub struct RecordKeys<'a> {
    /// TLS 1.3, not 1.2.
    pub is_tls13: bool,
    /// What seals them.
    pub cipher: RecordCipher,
    /// 16 bytes for AES-128-GCM, else 32.
    pub key: &'a [u8],
    /// Salt and initial vector. With AES-GCM in TLS 1.2 the last 8 bytes are the explicit part of the
    /// next nonce, which the kernel counts up.
    pub iv: [u8; 12],
    /// Of the next record.
    pub sequence: u64,
}

impl std::fmt::Debug for RecordKeys<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RecordKeys").field("cipher", &self.cipher).finish_non_exhaustive()
    }
}

const TLS_TX: i32 = 1;
const TLS_RX: i32 = 2;

impl RecordKeys<'_> {
    /// `struct tls12_crypto_info_*`: version, cipher, initial vector, key, salt, sequence number.
    fn crypto_info(&self) -> Vec<u8> {
        let (number, salt_bytes): (u16, _) = match self.cipher {
            RecordCipher::Aes128Gcm => (51, 4),
            RecordCipher::Aes256Gcm => (52, 4),
            RecordCipher::Chacha20Poly1305 => (54, 0),
        };
        let version: u16 = if self.is_tls13 { 0x0304 } else { 0x0303 };
        let (salt, iv) = self.iv.split_at(salt_bytes);
        let (version, number) = (version.to_ne_bytes(), number.to_ne_bytes());
        [&version[..], &number, iv, self.key, salt, &self.sequence.to_be_bytes()].concat()
    }
}

/// Gives a TCP socket's keys of one half to the kernel, the sending ones first.
///
/// # Errors
/// `NotFound` (`ENOENT`) where the kernel has no TLS; else what setsockopt(2) says, as of a cipher that
/// it does not know.
pub(super) fn hand_over(fd: RawFd, half: Half, keys: &RecordKeys<'_>) -> io::Result<()> {
    let name = match half {
        Half::Sending => {
            sys::set_option_bytes(fd, libc::IPPROTO_TCP, libc::TCP_ULP, b"tls")?;
            TLS_TX
        }
        Half::Receiving => TLS_RX,
    };
    let mut info = keys.crypto_info();
    let result = sys::set_option_bytes(fd, sys::SOL_TLS, name, &info);
    info.fill(0);
    result
}

/// The record, its type first, that a receive failed for on a socket whose records the kernel opens: with
/// `EIO`, as it is not data. Else why: not authentic, too long, or none, which is `InvalidData`.
pub(super) fn instead_of(fd: RawFd, error: io::Error) -> io::Result<(u8, Vec<u8>)> {
    match error.raw_os_error() {
        Some(libc::EIO) => {
            let mut content = vec![0; MAX_RECORD_CONTENT_BYTES];
            let (kind, len) = sys::recv_record(fd, &mut content)?;
            content.truncate(len);
            Ok((kind, content))
        }
        Some(libc::EBADMSG | libc::EMSGSIZE | libc::EINVAL) => {
            // The socket keeps the error too, and would send nothing more.
            let _ = sys::take_error(fd);
            Err(io::Error::new(io::ErrorKind::InvalidData, error))
        }
        _ => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_lie_as_the_kernel_reads_them() {
        let iv = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
        let keys = |cipher, key, is_tls13| RecordKeys { is_tls13, cipher, key, iv, sequence: 0x0102 };
        let head = |version: u16, number: u16| [version.to_ne_bytes(), number.to_ne_bytes()].concat();
        let sequence = [0, 0, 0, 0, 0, 0, 1, 2];
        let info = keys(RecordCipher::Aes128Gcm, &[7; 16], true).crypto_info();
        assert_eq!(info, [&head(0x0304, 51)[..], &iv[4..], &[7; 16], &iv[..4], &sequence].concat());
        let info = keys(RecordCipher::Aes256Gcm, &[7; 32], false).crypto_info();
        assert_eq!(info, [&head(0x0303, 52)[..], &iv[4..], &[7; 32], &iv[..4], &sequence].concat());
        let info = keys(RecordCipher::Chacha20Poly1305, &[7; 32], true).crypto_info();
        assert_eq!(info, [&head(0x0304, 54)[..], &iv, &[7; 32], &sequence].concat());
    }
}
