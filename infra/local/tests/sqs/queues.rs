//! Queues: creation, attributes, lists, purging and errors.

use std::time::{SystemTime, UNIX_EPOCH};

use aws_sdk_sqs::error::ProvideErrorMetadata;
use aws_sdk_sqs::types::QueueAttributeName as Attribute;
use local::sqs::QueueAttributes;

use crate::test_queue::{TestQueue, outcome, refused};

#[tokio::test]
async fn purging_a_queue_deletes_all_its_messages() {
    let queue = TestQueue::plain().await;
    for body in ["a", "b"] {
        queue.send(body).await;
    }
    queue.sending("c").delay_seconds(900).send().await.unwrap();
    queue.receiving().send().await.unwrap();
    queue.client.purge_queue().queue_url(&queue.url).send().await.unwrap();
    assert_eq!(queue.counts().await, ["0", "0", "0"]);
}

#[tokio::test]
async fn every_operation_refuses_a_queue_that_does_not_exist() {
    let queue = TestQueue::plain().await.named("missing");
    let (client, url, code) = (&queue.client, &queue.url, "AWS.SimpleQueueService.NonExistentQueue");
    let error = client.get_queue_url().queue_name("missing").send().await.unwrap_err().into_service_error();
    assert!(error.is_queue_does_not_exist());
    assert_eq!(outcome(queue.sending("m").send()).await, refused(code));
    assert_eq!(outcome(queue.receiving().send()).await, refused(code));
    assert_eq!(queue.delete("missing/1/x").await, refused(code));
    assert_eq!(queue.change_visibility("missing/1/x", 0).await, refused(code));
    assert_eq!(outcome(client.purge_queue().queue_url(url).send()).await, refused(code));
    assert_eq!(outcome(client.get_queue_attributes().queue_url(url).send()).await, refused(code));
    let set = client.set_queue_attributes().queue_url(url).attributes(Attribute::DelaySeconds, "1");
    assert_eq!(outcome(set.send()).await, refused(code));
}

#[tokio::test]
async fn creating_a_queue_twice_creates_one_queue() {
    let queue = TestQueue::plain().await;
    let create = |attributes: &[(Attribute, &str)]| {
        let create = queue.client.create_queue().queue_name("new");
        attributes.iter().fold(create, |create, (name, value)| create.attributes(name.clone(), *value)).send()
    };
    let visibility = (Attribute::VisibilityTimeout, "69");
    let url = create(std::slice::from_ref(&visibility)).await.unwrap().queue_url.unwrap();
    assert_eq!(url, queue.named("new").url);
    let new = queue.named("new");
    new.send("m").await;
    for same in [vec![visibility.clone()], vec![], vec![visibility.clone(), (Attribute::DelaySeconds, "0")]] {
        assert_eq!(create(&same).await.unwrap().queue_url.as_ref(), Some(&url));
    }
    for other in [vec![(Attribute::VisibilityTimeout, "70")], vec![visibility, (Attribute::DelaySeconds, "1")]] {
        assert!(create(&other).await.unwrap_err().into_service_error().is_queue_name_exists());
    }
    assert_eq!(queue.client.get_queue_url().queue_name("new").send().await.unwrap().queue_url, Some(url));
    assert_eq!(new.counts().await, ["1", "0", "0"]);
}

#[tokio::test]
async fn fifo_queues_and_invalid_names_are_refused() {
    let queue = TestQueue::plain().await;
    let create = |name: &str| queue.client.create_queue().queue_name(name).send();
    let error = create("orders.fifo").await.unwrap_err().into_service_error();
    assert!(error.is_unsupported_operation());
    assert!(error.to_string().contains("FIFO"), "{error}");
    for invalid in ["", "a b", "a/b", "é", &"x".repeat(81)] {
        assert_eq!(outcome(create(invalid)).await, refused("InvalidParameterValue"), "{invalid}");
    }
    create(&"x".repeat(80)).await.unwrap();
}

#[tokio::test]
async fn queue_attributes_can_be_set_and_read() {
    let queue = TestQueue::plain().await;
    queue.sqs.create_queue("dead", QueueAttributes::default()).unwrap();
    let all = queue.attributes(&[Attribute::All]).await;
    let number = |name: &str| all[name].parse::<u64>().unwrap();
    assert_eq!(all["QueueArn"], "arn:aws:sqs:us-east-1:000000000000:queue");
    assert_eq!(number("VisibilityTimeout"), 30);
    assert_eq!(number("DelaySeconds"), 0);
    assert_eq!(number("ReceiveMessageWaitTimeSeconds"), 0);
    assert_eq!(number("MessageRetentionPeriod"), 345_600);
    assert_eq!(number("MaximumMessageSize"), 1_048_576);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    assert!((now - 60..=now).contains(&number("CreatedTimestamp")));
    assert!(!all.contains_key("RedrivePolicy"));

    let policy = r#"{"deadLetterTargetArn":"arn:aws:sqs:us-east-1:000000000000:dead","maxReceiveCount":"3"}"#;
    let set = |name: Attribute, value: &str| {
        queue.client.set_queue_attributes().queue_url(&queue.url).attributes(name, value).send()
    };
    for (name, value) in [
        (Attribute::VisibilityTimeout, "43200"),
        (Attribute::DelaySeconds, "900"),
        (Attribute::ReceiveMessageWaitTimeSeconds, "20"),
        (Attribute::MessageRetentionPeriod, "1209600"),
        (Attribute::MaximumMessageSize, "1024"),
    ] {
        set(name.clone(), value).await.unwrap();
        assert_eq!(queue.attributes(std::slice::from_ref(&name)).await, [(name.to_string(), value.to_owned())].into());
    }
    set(Attribute::RedrivePolicy, policy).await.unwrap();
    let got = &queue.attributes(&[Attribute::RedrivePolicy]).await["RedrivePolicy"];
    assert_eq!(got, &policy.replace("\"3\"", "3"));
    set(Attribute::RedrivePolicy, "").await.unwrap();
    assert!(queue.attributes(&[Attribute::RedrivePolicy]).await.is_empty());
    assert!(queue.attributes(&[]).await.is_empty());
}

#[tokio::test]
async fn invalid_queue_attributes_are_refused() {
    let queue = TestQueue::plain().await;
    let set = |name: Attribute, value: &str| {
        outcome(queue.client.set_queue_attributes().queue_url(&queue.url).attributes(name, value).send())
    };
    for (name, value) in [
        (Attribute::VisibilityTimeout, "43201"),
        (Attribute::VisibilityTimeout, "-1"),
        (Attribute::VisibilityTimeout, "soon"),
        (Attribute::DelaySeconds, "901"),
        (Attribute::ReceiveMessageWaitTimeSeconds, "21"),
        (Attribute::MessageRetentionPeriod, "59"),
        (Attribute::MaximumMessageSize, "1048577"),
    ] {
        assert_eq!(set(name, value).await, refused("InvalidAttributeValue"), "{value}");
    }
    let policy = |target: &str, count: &str| {
        format!(r#"{{"deadLetterTargetArn":"arn:aws:sqs:us-east-1:000000000000:{target}","maxReceiveCount":{count}}}"#)
    };
    queue.sqs.create_queue("dead", QueueAttributes::default()).unwrap();
    for invalid in [
        policy("missing", "3"),
        policy("queue", "3"),
        policy("dead", "0"),
        policy("dead", "1001"),
        policy("dead", "\"x\""),
        "nonsense".to_owned(),
    ] {
        assert_eq!(set(Attribute::RedrivePolicy, &invalid).await, refused("InvalidParameterValue"), "{invalid}");
    }
    assert_eq!(set(Attribute::FifoQueue, "true").await, refused("InvalidAttributeName"));
    let get = queue.client.get_queue_attributes().queue_url(&queue.url).attribute_names("Nonsense".into());
    assert_eq!(outcome(get.send()).await, refused("InvalidAttributeName"));
    for attributes in [
        QueueAttributes { visibility_timeout: 43_201, ..Default::default() },
        QueueAttributes { max_receive: Some(("missing".to_owned(), 3)), ..Default::default() },
        QueueAttributes { max_receive: Some(("dead".to_owned(), 0)), ..Default::default() },
    ] {
        assert!(queue.sqs.create_queue("queue", attributes).is_err());
    }
}

#[tokio::test]
async fn queues_are_listed_by_prefix_and_page() {
    let queue = TestQueue::plain().await;
    for name in ["b-1", "b-2", "b-3", "c"] {
        queue.sqs.create_queue(name, QueueAttributes::default()).unwrap();
    }
    let urls = |names: &[&str]| names.iter().map(|name| queue.named(name).url).collect::<Vec<_>>();
    let list = || queue.client.list_queues();
    assert_eq!(list().send().await.unwrap().queue_urls(), urls(&["b-1", "b-2", "b-3", "c", "queue"]));
    assert!(list().queue_name_prefix("x").send().await.unwrap().queue_urls().is_empty());
    let page = list().queue_name_prefix("b-").max_results(2).send().await.unwrap();
    assert_eq!(page.queue_urls(), urls(&["b-1", "b-2"]));
    let rest = list().queue_name_prefix("b-").max_results(2).set_next_token(page.next_token).send().await.unwrap();
    assert_eq!(rest.queue_urls(), urls(&["b-3"]));
    assert_eq!(rest.next_token(), None);
    assert_eq!(outcome(list().max_results(1001).send()).await, refused("InvalidParameterValue"));
}

#[tokio::test]
async fn an_error_has_the_format_of_the_json_protocol() {
    let queue = TestQueue::plain().await.named("missing");
    let error = queue.sending("m").send().await.unwrap_err();
    let response = error.raw_response().unwrap();
    assert_eq!(response.status().as_u16(), 400);
    assert_eq!(response.headers().get("content-type"), Some("application/x-amz-json-1.0"));
    let code = response.headers().get("x-amzn-query-error");
    assert_eq!(code, Some("AWS.SimpleQueueService.NonExistentQueue;Sender"));
    let body = response.body().bytes().unwrap();
    let expected: &[u8] =
        br#"{"__type":"com.amazonaws.sqs#QueueDoesNotExist","message":"The specified queue does not exist."}"#;
    assert_eq!(body, expected);
}

#[tokio::test]
async fn an_unknown_operation_is_refused() {
    let queue = TestQueue::plain().await;
    let error = queue.client.delete_queue().queue_url(&queue.url).send().await.unwrap_err();
    assert_eq!(error.code(), Some("InvalidAction"));
    assert_eq!(error.raw_response().unwrap().status().as_u16(), 400);
}
