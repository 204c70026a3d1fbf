//! What the cores of a server share: how to reach each other, and who is online.

use super::Command;
use super::mailbox::{Mailbox, PostError};
use super::users::Users;
use crate::config::Limits;
use std::sync::OnceLock;

/// See the module's documentation.
#[derive(Debug)]
pub struct Peers {
    /// Of every core, by its number; filled when all have started.
    pub mailboxes: OnceLock<Vec<Mailbox<Command>>>,
    /// Who is bound to which connections.
    pub users: Users,
    /// As in [`Limits`].
    pub max_topic_bytes: u32,
}

impl Peers {
    /// With no mailboxes yet.
    pub fn new(limits: &Limits) -> Self {
        let users = Users::new(limits.max_user_bytes, limits.max_user_connections);
        Self { mailboxes: OnceLock::new(), users, max_topic_bytes: limits.max_topic_bytes }
    }

    /// The mailboxes, if the server runs.
    pub fn mailboxes(&self) -> Option<&[Mailbox<Command>]> {
        self.mailboxes.get().map(Vec::as_slice)
    }
}

/// Makes room for so many bytes on every core, or on none.
pub fn reserve_everywhere(mailboxes: &[Mailbox<Command>], bytes: usize) -> Result<(), PostError> {
    for (at, mailbox) in mailboxes.iter().enumerate() {
        if let Err(full) = mailbox.reserve_bytes(bytes) {
            mailboxes[..at].iter().for_each(|mailbox| mailbox.let_go(bytes));
            return Err(full);
        }
    }
    Ok(())
}
