//! A component's stream: it is cut into the same pieces, however its bytes come.
#![no_main]

// The bridge has no library that shows it.
#[path = "../../infra/bridge/src/framing.rs"]
mod framing;

use framing::{Frame, Framer, FramingError};
use libfuzzer_sys::fuzz_target;
use pushlark_fuzz::check_written;

fuzz_target!(|data: &[u8]| {
    let at_once = frames([data]);
    for frame in &at_once.0 {
        if let Frame::Stanza(element) | Frame::Refused(_, Some(element)) = frame {
            check_written(element);
        }
    }
    assert_eq!(frames(data.chunks(1)), at_once);
});

fn frames<'d>(chunks: impl IntoIterator<Item = &'d [u8]>) -> (Vec<Frame>, Option<FramingError>) {
    let (mut framer, mut frames) = (Framer::default(), Vec::new());
    for chunk in chunks {
        framer.push(chunk);
        loop {
            match framer.next() {
                Ok(Some(Frame::End)) => {
                    frames.push(Frame::End);
                    return (frames, None);
                }
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(bad) => return (frames, Some(bad)),
            }
        }
    }
    (frames, None)
}
