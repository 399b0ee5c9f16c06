//! What the bill needs of `infra/template.yaml`.

use anyhow::{Context, ensure};

const TEMPLATE: &str = include_str!("../../../infra/template.yaml");

/// The parts of the template that AWS bills.
#[derive(Debug, PartialEq)]
pub struct Template {
    /// The memory of ingest and of the worker, in MB.
    pub memory: [f64; 2],
    /// Whether Lambda logs the start and the end of each invocation (`SystemLogLevel`).
    pub has_report_lines: bool,
    /// Metrics of all alarms.
    pub alarm_metrics: usize,
}

impl Template {
    /// Reads the file that is compiled in.
    pub fn read() -> anyhow::Result<Self> {
        Self::parse(TEMPLATE)
    }

    fn parse(template: &str) -> anyhow::Result<Self> {
        let globals = between(template, "\nGlobals:\n", "\nResources:\n").context("no Globals")?;
        let megabytes =
            |text: &str| text.lines().find_map(|line| line.trim().strip_prefix("MemorySize: ")?.parse().ok());
        let memory = |name: &str| {
            let function = resources(template).find(|resource| resource.starts_with(&format!("{name}:\n")));
            let function = function.with_context(|| format!("no function {name}"))?;
            megabytes(function).or_else(|| megabytes(globals)).with_context(|| format!("no memory of {name}"))
        };
        let level = globals.lines().find_map(|line| line.trim().strip_prefix("SystemLogLevel: "));
        let mut alarm_metrics = 0;
        for alarm in resources(template).filter(|resource| resource.contains("Type: AWS::CloudWatch::Alarm\n")) {
            ensure!(
                !alarm.contains("SELECT "),
                "a query of an alarm is billed by the metrics that it reads: count them"
            );
            alarm_metrics += alarm.matches("MetricStat:").count().max(1);
        }
        Ok(Self {
            memory: [memory("Ingest")?, memory("Worker")?],
            has_report_lines: level != Some("WARN"),
            alarm_metrics,
        })
    }
}

/// The resources, each from its name on.
fn resources(template: &str) -> impl Iterator<Item = &str> {
    let resources = between(template, "\nResources:\n", "\nOutputs:\n").unwrap_or_default();
    let starts = resources.match_indices("  ").map(|(index, _)| index);
    let starts: Vec<_> = starts
        .filter(|start| {
            (*start == 0 || resources[..*start].ends_with('\n')) && !resources[start + 2..].starts_with([' ', '#'])
        })
        .collect();
    let ends: Vec<_> = starts.iter().skip(1).copied().chain([resources.len()]).collect();
    starts.into_iter().zip(ends).map(|(start, end)| &resources[start + 2..end])
}

/// The text between `start` and the next `end`.
fn between<'t>(text: &'t str, start: &str, end: &str) -> Option<&'t str> {
    text.split_once(start)?.1.split_once(end).map(|(inner, _)| inner)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const SMALL: &str = "
Globals:
  Function:
    MemorySize: 512
    LoggingConfig:
      LogFormat: JSON
      SystemLogLevel: WARN

Resources:
  Ingest:
    Type: AWS::Serverless::Function
  # A comment.
  Worker:
    Type: AWS::Serverless::Function
    Properties:
      MemorySize: 256
  Simple:
    Type: AWS::CloudWatch::Alarm
    Properties:
      MetricName: One
  Several:
    Type: AWS::CloudWatch::Alarm
    Properties:
      Metrics:
        - {Id: a, MetricStat: {}}
        - {Id: b, MetricStat: {}}

Outputs:
  None: {}
";

    #[test]
    fn a_function_has_its_own_memory_or_that_of_all_functions() {
        let template = Template::parse(SMALL).unwrap();
        assert_eq!(template, Template { memory: [512.0, 256.0], has_report_lines: false, alarm_metrics: 3 });
        let with_lines = SMALL.replace("      SystemLogLevel: WARN\n", "");
        assert!(Template::parse(&with_lines).unwrap().has_report_lines);
        let with_query = SMALL.replace("MetricName: One", "Expression: SELECT SUM(Errors)");
        assert!(Template::parse(&with_query).is_err());
    }

    #[test]
    fn the_template_can_be_read() {
        let template = Template::read().unwrap();
        assert!(template.memory.iter().all(|memory| (128.0..=1769.0).contains(memory)) && template.alarm_metrics > 0);
    }
}
