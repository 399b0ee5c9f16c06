//! Pictures in SVG, readable on light and dark backgrounds.

use std::fmt::Write;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 360.0;
/// The area of the curve: left, top, right, bottom.
const AREA: [f64; 4] = [80.0, 48.0, 700.0, 304.0];
/// The percentiles with a label. The distance between them is the same for each further digit.
const LABELS: [(f64, &str); 5] = [(0.0, "0 %"), (50.0, "50 %"), (90.0, "90 %"), (99.0, "99 %"), (99.9, "99.9 %")];
/// The end of the axis.
const LAST_PERCENTILE: f64 = 99.99;

/// Draws the milliseconds at each percentile, as HDR histograms are drawn: an axis of the logarithm of the rest. Each
/// target is a percentile and its longest time.
pub fn percentiles(title: &str, targets: &[(f64, f64)], milliseconds: impl Fn(f64) -> f64) -> String {
    let [left, top, right, bottom] = AREA;
    let digits = |percentile: f64| (100.0 / (100.0 - percentile)).log10();
    let x = |percentile| left + (right - left) * digits(percentile) / digits(LAST_PERCENTILE);
    let highest = targets.iter().map(|target| target.1).fold(milliseconds(LAST_PERCENTILE), f64::max);
    let step = step(highest);
    let lines = (highest / step).ceil() as u32;
    let y = |value: f64| bottom - (bottom - top) * value / (step * f64::from(lines));

    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" \
         font-family=\"system-ui, sans-serif\" font-size=\"13\">\n\
         <title>{title}</title>\n<style>\n\
         text {{ fill: #24292f }} .grid {{ stroke: #d0d7de }} .curve {{ stroke: #0969da; fill: none; stroke-width: 2 }}\n\
         .target {{ stroke: #cf222e; stroke-width: 2 }} .limit {{ fill: #cf222e }}\n\
         @media (prefers-color-scheme: dark) {{\n\
         text {{ fill: #e6edf3 }} .grid {{ stroke: #3d444d }} .curve {{ stroke: #58a6ff }}\n\
         .target {{ stroke: #ff7b72 }} .limit {{ fill: #ff7b72 }}\n}}\n</style>\n"
    );
    let mut draw = |element: String| {
        // Writing to a text cannot fail.
        let _ = writeln!(svg, "{element}");
    };
    let text = |x: f64, y: f64, anchor: &str, class: &str, text: &str| {
        format!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" class=\"{class}\">{text}</text>")
    };
    let line = |class: &str, from: [f64; 2], to: [f64; 2]| {
        let ([x1, y1], [x2, y2]) = (from, to);
        format!("<line class=\"{class}\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>")
    };
    draw(text(left, 24.0, "start", "", title));
    for number in 0..=lines {
        let value = step * f64::from(number);
        draw(line("grid", [left, y(value)], [right, y(value)]));
        draw(text(left - 8.0, y(value) + 4.0, "end", "", &format!("{value} ms")));
    }
    for (percentile, label) in LABELS {
        draw(line("grid", [x(percentile), top], [x(percentile), bottom]));
        draw(text(x(percentile), bottom + 20.0, "middle", "", label));
    }
    draw(text((left + right) / 2.0, bottom + 44.0, "middle", "", "share of the messages that are at least as fast"));
    let points: Vec<_> = (0..=400)
        .map(|number| 100.0 - 100.0 / 10_f64.powf(digits(LAST_PERCENTILE) * f64::from(number) / 400.0))
        .map(|percentile| format!("{:.1},{:.1}", x(percentile), y(milliseconds(percentile))))
        .collect();
    draw(format!("<polyline class=\"curve\" points=\"{}\"/>", points.join(" ")));
    for (percentile, limit) in targets {
        let (x, y) = (x(*percentile), y(*limit));
        draw(line("target", [x - 16.0, y], [x + 16.0, y]));
        draw(text(x, y - 8.0, "middle", "limit", &format!("target {limit} ms")));
    }
    svg + "</svg>\n"
}

/// The distance of horizontal lines: 1, 2 or 5 times a power of ten, so that there are at most eight.
fn step(highest: f64) -> f64 {
    let power = 10_f64.powf((highest / 8.0).log10().floor());
    [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power).into_iter().find(|step| highest / step <= 8.0).unwrap_or(highest)
}
