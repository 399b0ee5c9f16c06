//! The price of a scan of the whole table, which an operator sees before the scan.

use std::fmt;

use pushlark_prices::{Prices, Quantities, total};
use pushlark_store::{Store, TableSize};

use crate::stack::{Place, Stack};

/// The bytes that a read unit reads without strong consistency ("DynamoDB read and write operations").
const READ_UNIT_BYTES: u64 = 8 * 1024;

/// The size of a table, and the price of a scan of it.
pub struct ScanPrice {
    size: TableSize,
    /// `None` on the local stack.
    dollars: Option<f64>,
}

impl ScanPrice {
    /// Returns the price of a scan of the table of a stack.
    pub async fn of(stack: &Stack, store: &Store) -> anyhow::Result<Self> {
        let size = store.table_size().await?;
        let dollars = match stack.place {
            Place::Local { .. } => None,
            Place::Aws { .. } => {
                let reads = read_units(size) as f64;
                Some(total(&Prices::read()?.bill(&Quantities { reads, ..Quantities::default() })))
            }
        };
        Ok(Self { size, dollars })
    }

    /// Returns the approximate number of items.
    pub fn items(&self) -> u64 {
        self.size.items
    }
}

impl fmt::Display for ScanPrice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TableSize { items, bytes } = self.size;
        let units = read_units(self.size);
        write!(f, "A scan of the table reads about {items} items ({} KB): {units} read units, ", bytes / 1_000)?;
        match self.dollars {
            None => write!(f, "which cost nothing on the local stack."),
            Some(dollars) => write!(f, "about ${dollars:.6} in us-east-1. DynamoDB counts items every six hours."),
        }
    }
}

/// Returns the read units of a scan. DynamoDB bills the size of its pages, not that of each item.
fn read_units(size: TableSize) -> u64 {
    size.bytes.div_ceil(READ_UNIT_BYTES).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scan_takes_a_read_unit_for_each_8_kib_and_names_its_price() {
        let price = |bytes, dollars| ScanPrice { size: TableSize { items: 2, bytes }, dollars }.to_string();
        let local =
            "A scan of the table reads about 2 items (0 KB): 1 read units, which cost nothing on the local stack.";
        assert_eq!(price(0, None), local);
        let aws = price(80 * 1024 + 1, Some(0.25));
        assert!(aws.contains("(81 KB): 11 read units, about $0.250000 in us-east-1."), "{aws}");
    }
}
