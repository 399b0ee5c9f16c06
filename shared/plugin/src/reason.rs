//! The reasons of the built-in plugins, each with its code and its sentence.

use pushlark_xmpp::NoContent;

use crate::event::Rule;

macro_rules! reasons {
    ($($(#[$doc:meta])+ $name:ident: $plugin:literal, $code:literal, $text:literal;)+) => {
        /// A reason of a built-in plugin.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Reason {
            $($(#[$doc])+ $name,)+
        }

        impl Reason {
            /// All reasons.
            pub const ALL: [Self; [$($code),+].len()] = [$(Self::$name),+];

            /// Returns the rule of the plugin, with the code and the sentence of the reason.
            pub fn rule(self) -> Rule {
                match self {
                    $(Self::$name => Rule::new($plugin, $text).with_code($code),)+
                }
            }
        }
    };
}

reasons! {
    /// The user does not exist.
    NoUser: "defaults", "no-user", "there is no such user";
    /// The user is online with an active client.
    Online: "defaults", "online", "the recipient is online";
    /// The message was not acknowledged.
    Unacknowledged: "defaults", "unacknowledged", "unacknowledged messages do not notify";
    /// The message is the recipient's own.
    Own: "defaults", "own", "the recipient wrote the message";
    /// The call is the recipient's own.
    OwnCall: "defaults", "own-call", "the recipient's own account calls";
    /// The device of the called user rings.
    Ringing: "defaults", "ringing", "a device of the other side rings";
    /// The other user answers.
    OtherAnswers: "defaults", "other-answers", "the other side answers a call";
    /// The recipient ends a call.
    OwnCallEnd: "defaults", "own-call-end", "the recipient's own account ends a call";
    /// `CALL_END` is off.
    CallEndOff: "defaults", "call-end-off", "CALL_END is off";
    /// The session of the unacknowledged message enabled another registration, or none.
    NotTied: "enhanced", "not-tied", "the session is not tied to this service";
    /// The message has the hint `no-store` (XEP-0334).
    NoStore: "hints", "no-store", "the message is not to be stored";
}

impl From<NoContent> for Rule {
    fn from(reason: NoContent) -> Self {
        Self::new("defaults", reason.as_str()).with_code(reason.code())
    }
}
