//! The slots of claims: recipients of a message in the same slot share one item of the table.

use sha2::{Digest, Sha256};

/// The number of slots. A change makes the claims of all messages that are being notified unfindable.
pub const CLAIM_SLOTS: u8 = 16;

/// Returns the slot of a user: the first byte of the SHA-256 of the bare JID, modulo [`CLAIM_SLOTS`]. It does not depend
/// on the event, so that each event of a message finds the claims of the others.
pub fn claim_slot(bare_jid: &str) -> u8 {
    Sha256::digest(bare_jid)[0] % CLAIM_SLOTS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slot_of_a_user_never_changes() {
        for (user, slot) in [("alice@example.com", 15), ("bob@example.com", 15), ("", 3)] {
            assert_eq!(claim_slot(user), slot, "{user}");
        }
    }
}
