//! Registers beside plain puts and gets, and beside etcd: see README.md.

mod etcd;
mod rates;
mod steps;

use std::env;

use kvquorum_benches::http::serve_if_told;
use kvquorum_benches::table::Table;
use rates::Place;

fn main() {
    serve_if_told();
    if steps::run_if_told() {
        return;
    }
    let parts: Vec<String> = env::args().skip(1).filter(|it| it != "--bench").collect();
    let wanted = |part: &str| parts.is_empty() || parts.iter().any(|it| it == part);
    let mut table = Table::default();
    if wanted("steps") {
        steps::count(&mut table);
    }
    for (part, place) in [("memory", Place::Memory), ("disk", Place::Disk)] {
        if wanted(part) {
            rates::measure(place, &mut table);
        }
        // Beside it, since a machine's speed changes.
        if wanted(part) || wanted("etcd") {
            etcd::measure(place);
        }
    }
    println!("\n{table}");
}
