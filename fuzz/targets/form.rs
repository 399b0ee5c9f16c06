//! The form of MongooseIM: whatever is taken is a message between users of one server.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pushlark_events::{Effect, Sources};
use pushlark_fuzz::check_body;
use pushlark_http::Media;
use pushlark_queue::WorkKind;

fuzz_target!(|data: &[u8]| {
    for event in check_body(&Media::Form, data, &Sources::default()) {
        let Effect::Queue(WorkKind::Message { from, to, .. }) = &event.effect else { panic!("{event:?}") };
        let [to] = to.as_slice() else { panic!("{event:?}") };
        assert!(from.is_bare() && from.node().is_some() && to.node().is_some(), "{event:?}");
        assert_eq!(from.domain(), to.domain());
    }
});
