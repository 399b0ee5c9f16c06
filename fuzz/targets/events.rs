//! Bodies of webhooks, each in the format that its first byte says.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use pushlark_events::Sources;
use pushlark_fuzz::{check_body, chosen, settings};
use pushlark_http::Media;

static SOURCES: LazyLock<Sources> =
    LazyLock::new(|| settings(Sources::from_environment, &[("MUC_HOSTS", "conference.@HOST@, muc.localhost")]));

fuzz_target!(|data: &[u8]| {
    let Some((format, body)) = chosen(data) else { return };
    let media = match format {
        'J' => Media::Json,
        'L' => Media::JsonLines,
        'C' => Media::CloudEvent,
        'B' => Media::CloudEvents,
        'X' => Media::Xml("application/xml"),
        'F' => Media::Form,
        _ => return,
    };
    check_body(&media, body, &SOURCES);
});
