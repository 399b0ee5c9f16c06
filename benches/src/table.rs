//! Tables in Markdown, for the results.

use std::fmt;

/// A table with a header and aligned columns.
pub struct Table {
    /// The first row is the heading.
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Creates a table with these columns and no rows.
    pub fn new<const N: usize>(columns: [&str; N]) -> Self {
        Self { rows: vec![columns.map(str::to_owned).into()] }
    }

    /// Creates a table with these rows, of which the first is the heading and all have as many cells.
    pub fn of_rows(rows: Vec<Vec<String>>) -> Self {
        Self { rows }
    }

    /// Adds a row at the end.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.into());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widths: Vec<usize> = (0..self.rows[0].len())
            .map(|column| self.rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default())
            .collect();
        for (index, row) in self.rows.iter().enumerate() {
            for (cell, width) in row.iter().zip(&widths) {
                write!(f, "| {cell:width$} ")?;
            }
            writeln!(f, "|")?;
            if index == 0 {
                widths.iter().try_for_each(|width| write!(f, "| {:-<width$} ", ""))?;
                writeln!(f, "|")?;
            }
        }
        Ok(())
    }
}

/// The cells of a figure and of its upper limit, with "met" or "MISSED".
pub fn judged(figure: f64, digits: usize, target: Option<f64>) -> [String; 2] {
    let target = target
        .map_or(String::new(), |target| format!("{target}{}", if figure <= target { ", met" } else { ", MISSED" }));
    [format!("{figure:.digits$}"), target]
}
