//! Batches of sends, deletions and visibility changes.

use aws_sdk_sqs::types::{
    ChangeMessageVisibilityBatchRequestEntry, DeleteMessageBatchRequestEntry, SendMessageBatchRequestEntry,
};

use crate::MAX_MESSAGE_BYTES;
use crate::test_queue::{TestQueue, bodies, outcome, refused, text};

#[tokio::test]
async fn a_batch_reports_the_result_of_each_entry() {
    let queue = TestQueue::plain().await;
    let entry = |id: &str, body: &str| SendMessageBatchRequestEntry::builder().id(id).message_body(body);
    let sent = queue
        .client
        .send_message_batch()
        .queue_url(&queue.url)
        .entries(entry("good", "one").build().unwrap())
        .entries(entry("bad-characters", "\u{1}").build().unwrap())
        .entries(entry("late", "two").delay_seconds(901).build().unwrap())
        .entries(entry("good-too", "three").message_attributes("Foo", text("Bar")).build().unwrap())
        .send()
        .await
        .unwrap();
    let ids: Vec<_> = sent.successful().iter().map(|entry| entry.id()).collect();
    assert_eq!(ids, ["good", "good-too"]);
    assert_eq!(sent.successful()[1].md5_of_message_attributes(), Some("ae7155c6026991b6d54b11589678bf9c"));
    let failed: Vec<_> = sent.failed().iter().map(|entry| (entry.id(), entry.code(), entry.sender_fault())).collect();
    assert_eq!(failed, [("bad-characters", "InvalidMessageContents", true), ("late", "InvalidParameterValue", true)]);

    let messages = queue.receive().await;
    assert_eq!(bodies(&messages), ["one", "three"].into());
    let receipts: Vec<_> = messages.iter().map(|message| message.receipt_handle().unwrap()).collect();
    let change = |id: &str, receipt: &str, seconds: i32| {
        let entry = ChangeMessageVisibilityBatchRequestEntry::builder().id(id).receipt_handle(receipt);
        entry.visibility_timeout(seconds).build().unwrap()
    };
    let changed = queue
        .client
        .change_message_visibility_batch()
        .queue_url(&queue.url)
        .entries(change("far", receipts[0], 43_201))
        .entries(change("returned", receipts[1], 0))
        .entries(change("unknown", "nonsense", 0))
        .send()
        .await
        .unwrap();
    assert_eq!(changed.successful()[0].id(), "returned");
    let failed: Vec<_> = changed.failed().iter().map(|entry| (entry.id(), entry.code())).collect();
    assert_eq!(failed, [("far", "InvalidParameterValue"), ("unknown", "ReceiptHandleIsInvalid")]);
    assert_eq!(queue.counts().await, ["1", "1", "0"]);

    let delete = |id: &str, receipt: &str| {
        DeleteMessageBatchRequestEntry::builder().id(id).receipt_handle(receipt).build().unwrap()
    };
    let deleted = queue
        .client
        .delete_message_batch()
        .queue_url(&queue.url)
        .entries(delete("unknown", "nonsense"))
        .entries(delete("0", receipts[0]))
        .entries(delete("1", receipts[1]))
        .send()
        .await
        .unwrap();
    let ids: Vec<_> = deleted.successful().iter().map(|entry| entry.id()).collect();
    assert_eq!(ids, ["0", "1"]);
    assert_eq!((deleted.failed()[0].id(), deleted.failed()[0].code()), ("unknown", "ReceiptHandleIsInvalid"));
    assert_eq!(queue.counts().await, ["0", "0", "0"]);
}

#[tokio::test]
async fn an_invalid_batch_is_refused_as_a_whole() {
    let queue = TestQueue::plain().await;
    let long = "x".repeat(81);
    let eleven: Vec<_> = (0..11).map(|n| n.to_string()).collect();
    let cases: [(Vec<&str>, &str); 7] = [
        (vec![], "AWS.SimpleQueueService.EmptyBatchRequest"),
        (eleven.iter().map(String::as_str).collect(), "AWS.SimpleQueueService.TooManyEntriesInBatchRequest"),
        (vec!["a", "b", "a"], "AWS.SimpleQueueService.BatchEntryIdsNotDistinct"),
        (vec![""], "AWS.SimpleQueueService.InvalidBatchEntryId"),
        (vec!["a b"], "AWS.SimpleQueueService.InvalidBatchEntryId"),
        (vec!["é"], "AWS.SimpleQueueService.InvalidBatchEntryId"),
        (vec![&long], "AWS.SimpleQueueService.InvalidBatchEntryId"),
    ];
    for (ids, code) in cases {
        let send = ids.iter().map(|id| SendMessageBatchRequestEntry::builder().id(*id).message_body("m"));
        let send = send.map(|entry| entry.build().unwrap()).collect();
        let sending = queue.client.send_message_batch().queue_url(&queue.url).set_entries(Some(send));
        assert_eq!(outcome(sending.send()).await, refused(code), "{ids:?}");

        let delete = ids.iter().map(|id| DeleteMessageBatchRequestEntry::builder().id(*id).receipt_handle("r"));
        let delete = delete.map(|entry| entry.build().unwrap()).collect();
        let deleting = queue.client.delete_message_batch().queue_url(&queue.url).set_entries(Some(delete));
        assert_eq!(outcome(deleting.send()).await, refused(code), "{ids:?}");

        let change = ids.iter().map(|id| ChangeMessageVisibilityBatchRequestEntry::builder().id(*id));
        let change = change.map(|entry| entry.receipt_handle("r").visibility_timeout(0).build().unwrap()).collect();
        let changing = queue.client.change_message_visibility_batch().queue_url(&queue.url).set_entries(Some(change));
        assert_eq!(outcome(changing.send()).await, refused(code), "{ids:?}");
    }
    assert_eq!(queue.counts().await, ["0", "0", "0"]);
}

#[tokio::test]
async fn a_batch_has_at_most_1_mib_with_all_attributes() {
    let queue = TestQueue::plain().await;
    let sending = |bytes: usize| {
        let entry = |id: &str, bytes| SendMessageBatchRequestEntry::builder().id(id).message_body("x".repeat(bytes));
        let last = entry("last", bytes - MAX_MESSAGE_BYTES / 2).message_attributes("Foo", text("Bar"));
        let request = queue.client.send_message_batch().queue_url(&queue.url);
        request.entries(entry("first", MAX_MESSAGE_BYTES / 2).build().unwrap()).entries(last.build().unwrap()).send()
    };
    assert_eq!(outcome(sending(MAX_MESSAGE_BYTES - 11)).await, refused("AWS.SimpleQueueService.BatchRequestTooLong"));
    assert_eq!(queue.counts().await, ["0", "0", "0"]);
    assert_eq!(sending(MAX_MESSAGE_BYTES - 12).await.unwrap().successful().len(), 2);
}
