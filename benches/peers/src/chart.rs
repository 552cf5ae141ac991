//! What was measured, as a picture.

use std::fmt::Write;

use crate::engines::Engine;
use crate::table::Table;
use crate::workloads::Workload;

const ROW: u32 = 14;
/// Where a bar begins, how long that of the limit is, and how much longer there may be.
const LEFT: f64 = 180.0;
const LIMIT: f64 = 320.0;
const RATIO_MAX: f64 = 1.5;

/// As SVG: a bar for each engine at each workload, its ratio to the floor.
pub fn chart(table: &Table) -> String {
    let mut rows = String::new();
    let mut y = 30;
    for workload in &table.workloads {
        y += 10;
        put(&mut rows, 10.0, y, "font-weight='bold'", &title(workload));
        y += 8;
        for engine in table.engines.iter().filter(|engine| engine.name != "floor") {
            let medians = table.medians(engine, workload);
            if let Some(ratio) = medians.and_then(|medians| medians.ratio) {
                put_bar(&mut rows, engine, ratio, y);
                y += ROW;
            }
        }
        y += 12;
    }
    let limit = LEFT + LIMIT;
    format!(
        "<svg xmlns='http://www.w3.org/2000/svg' width='760' height='{y}' font-family='sans-serif' font-size='11'>\n\
         <rect width='100%' height='100%' fill='white'/>\n\
         <text x='{limit}' y='18' text-anchor='middle'>the limit</text>\n\
         <line x1='{limit}' y1='22' x2='{limit}' y2='{y}' stroke='#c1121f' stroke-dasharray='4 3'/>\n{rows}</svg>\n"
    )
}

fn title(workload: &Workload) -> String {
    format!("{} {}", workload.name, workload.what)
}

fn put_bar(rows: &mut String, engine: &Engine, ratio: f64, y: u32) {
    let width = ratio.min(RATIO_MAX) * LIMIT;
    let (height, base) = (ROW - 3, y + ROW - 4);
    let color = match engine.is_duramen() {
        true => "#2a6f97",
        false => "#b8c4cc",
    };
    put(rows, LEFT - 10.0, base, "text-anchor='end'", engine.name);
    let _ = writeln!(
        rows,
        "<rect x='{LEFT}' y='{y}' width='{width:.0}' height='{height}' fill='{color}'/>"
    );
    put(rows, LEFT + width + 5.0, base, "", &format!("{ratio:.2}"));
}

fn put(rows: &mut String, x: f64, y: u32, attributes: &str, text: &str) {
    let _ = writeln!(rows, "<text x='{x:.0}' y='{y}' {attributes}>{text}</text>");
}
