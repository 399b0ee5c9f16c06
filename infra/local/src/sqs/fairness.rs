//! Fair queues: the message groups that take more than their share of the consumers ("How Amazon SQS fair queues work").

use rusqlite::Connection;

use super::clock::Clock;
use super::error::Error;
use super::store::StoredQueue;

/// A group is noisy if it has more than this percentage of the messages in flight, or of the consumers' time.
const NOISY_PERCENT: i64 = 10;
/// The fewest messages in flight of a group that is noisy because of their number.
const NOISY_IN_FLIGHT: i64 = 30;
/// The time over which the consumers' time is shared, in minutes. AWS documents none.
const RECENT_MINUTES: i64 = 5;

/// The share of the consumers that a group takes.
struct Share {
    group: String,
    in_flight: i64,
    /// The milliseconds for which consumers had its messages.
    processing: i64,
}

/// Returns the noisy groups, the one with the fewest messages in flight first. A message without a group is in none.
pub(super) fn noisy_groups(queue: &StoredQueue, db: &Connection, clock: Clock, now: i64) -> Result<Vec<String>, Error> {
    let mut statement = db.prepare_cached(
        "SELECT group_id, sum(in_flight), sum(millis) FROM (
             SELECT group_id, count(*) AS in_flight, sum(?2 - received_at) AS millis
                 FROM messages WHERE queue = ?1 AND visible_at > ?2 AND receive_count > 0 GROUP BY group_id
             UNION ALL
             SELECT group_id, 0, sum(millis) FROM processing WHERE queue = ?1 AND minute > ?3 GROUP BY group_id
         ) GROUP BY group_id",
    )?;
    let since = minute(clock, now) - RECENT_MINUTES;
    let rows = statement.query_map((&queue.name, now, since), |row| {
        Ok(Share { group: row.get(0)?, in_flight: row.get(1)?, processing: row.get(2)? })
    })?;
    let mut shares: Vec<Share> = rows.collect::<Result<_, _>>()?;
    let [mut in_flight, mut processing] = [0; 2];
    for share in &shares {
        in_flight += share.in_flight;
        processing += share.processing;
    }
    shares.retain(|share| {
        let has_many = share.in_flight >= NOISY_IN_FLIGHT && share.in_flight * 100 > in_flight * NOISY_PERCENT;
        !share.group.is_empty() && (has_many || share.processing * 100 > processing * NOISY_PERCENT)
    });
    shares.sort_by_key(|share| share.in_flight);
    Ok(shares.into_iter().map(|share| share.group).collect())
}

/// Adds the time for which a consumer had a message, which it has deleted now.
pub(super) fn add_processing(
    group: &str,
    received_at: i64,
    queue: &StoredQueue,
    db: &Connection,
    clock: Clock,
) -> Result<(), Error> {
    let now = clock.now();
    let mut statement = db.prepare_cached(
        "INSERT INTO processing (queue, group_id, minute, millis) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT DO UPDATE SET millis = millis + excluded.millis",
    )?;
    statement.execute((&queue.name, group, minute(clock, now), now - received_at))?;
    let mut statement = db.prepare_cached("DELETE FROM processing WHERE queue = ?1 AND minute <= ?2")?;
    statement.execute((&queue.name, minute(clock, now) - RECENT_MINUTES))?;
    Ok(())
}

/// Returns the number of a minute of SQS's time.
fn minute(clock: Clock, now: i64) -> i64 {
    now / clock.millis(60)
}
