//! Metrics of CloudWatch.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::Context;
use aws_config::SdkConfig;
use aws_sdk_cloudwatch::Client;
use aws_sdk_cloudwatch::primitives::DateTime;
use aws_sdk_cloudwatch::types::{Dimension, MetricDataQuery, MetricStat, ScanBy};
use time::OffsetDateTime;

/// The most queries of one call ("CloudWatch API reference", GetMetricData).
const MAX_QUERIES: usize = 500;

/// A metric with its dimensions, and a statistic of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Metric {
    namespace: String,
    name: &'static str,
    statistic: &'static str,
    dimensions: Vec<(&'static str, String)>,
}

/// The metrics of a time.
pub struct Metrics {
    client: Client,
    start: OffsetDateTime,
    end: OffsetDateTime,
    period: Duration,
}

impl Metric {
    /// Creates a metric without dimensions.
    pub fn new(namespace: impl Into<String>, name: &'static str, statistic: &'static str) -> Self {
        Self { namespace: namespace.into(), name, statistic, dimensions: Vec::new() }
    }

    /// Adds a dimension.
    pub fn of(mut self, dimension: &'static str, value: impl Into<String>) -> Self {
        self.dimensions.push((dimension, value.into()));
        self
    }

    fn query(&self, id: String, period: Duration) -> MetricDataQuery {
        let dimensions =
            self.dimensions.iter().map(|(name, value)| Dimension::builder().name(*name).value(value).build());
        let metric = aws_sdk_cloudwatch::types::Metric::builder().namespace(&self.namespace).metric_name(self.name);
        let metric = metric.set_dimensions(Some(dimensions.collect())).build();
        let stat = MetricStat::builder().metric(metric).stat(self.statistic).period(period.as_secs() as i32).build();
        MetricDataQuery::builder().id(id).metric_stat(stat).build()
    }
}

impl Metrics {
    /// Chooses the time from `start` to `end`, and the period of one value.
    pub fn new(aws: &SdkConfig, start: OffsetDateTime, end: OffsetDateTime, period: Duration) -> Self {
        Self { client: Client::new(aws), start, end, period }
    }

    /// Returns the values of each metric, the newest first. A period without data has none.
    pub async fn values(&self, metrics: &[Metric]) -> anyhow::Result<Vec<Vec<f64>>> {
        let mut values = Vec::with_capacity(metrics.len());
        for chunk in metrics.chunks(MAX_QUERIES) {
            let queries =
                chunk.iter().enumerate().map(|(index, metric)| metric.query(format!("m{index}"), self.period));
            let request = self.client.get_metric_data().set_metric_data_queries(Some(queries.collect()));
            let at = |time: OffsetDateTime| DateTime::from_secs(time.unix_timestamp());
            // The end is exclusive, and a fraction of a second is lost.
            let request = request.start_time(at(self.start)).end_time(at(self.end + Duration::from_secs(1)));
            let mut pages = request.scan_by(ScanBy::TimestampDescending).into_paginator().send();
            let mut by_id: HashMap<String, Vec<f64>> = HashMap::new();
            while let Some(page) = pages.next().await {
                for result in page.context("the metrics cannot be read")?.metric_data_results() {
                    by_id.entry(result.id().unwrap_or_default().into()).or_default().extend(result.values());
                }
            }
            values.extend((0..chunk.len()).map(|index| by_id.remove(&format!("m{index}")).unwrap_or_default()));
        }
        Ok(values)
    }
}
