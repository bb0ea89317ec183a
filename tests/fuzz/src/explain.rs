//! Bytes as a question and rules in any state.

use labkit::screen::Look;
use labkit::xtables::Family;
use miniproxy::explain::page::page;
use miniproxy::explain::plain::plain;
use miniproxy::explain::{Origin, Question};
use miniproxy::graph;
use miniproxy::rules::pasted::{self, Pasted};
use miniproxy::target::{Book, Caller, Target, resolve};

/// Ways longer than this are given up, so that chains made to explode do not hold up the fuzzer.
const STEPS: usize = 20_000;

/// A line `TARGET [CALLER]`, then what somebody took for a dump.
///
/// # Panics
/// When shares are none.
pub fn explain(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (line, dump) = text.split_once('\n').unwrap_or((&text, ""));
    let mut words = line.split(' ');
    let Ok(target) = Target::parse(words.next().unwrap_or_default()) else {
        return;
    };
    let caller = words.next().and_then(|word| Caller::parse(word).ok());
    let dump = pasted::mended(dump);
    let reading = pasted::read(&dump);
    for family in Family::ALL {
        let empty = Pasted::default();
        let pasted = reading.families.get(&family).unwrap_or(&empty);
        let mut book = Book::default();
        book.add_rules(&pasted.found);
        let Ok(call) = resolve(&book, family, &target, caller.as_ref(), None) else {
            continue;
        };
        let report = miniproxy::explain::explain(&Question {
            call: &call,
            book: &book,
            pasted,
            family,
            origin: &Origin {
                from: "bytes".into(),
                rules: reading.rules,
                notes: reading.notes.clone(),
            },
            host: None,
            no_route: false,
            steps: STEPS,
        });
        let sum: f64 = report.backends.iter().map(|backend| backend.share).sum();
        assert!(sum <= 1.0 + 1e-9, "{report:?}");
        assert!((0.0..=1.0 + 1e-9).contains(&report.falls_through), "{report:?}");
        let look = Look::sized(80, 24).ascii();
        let drawn = page(&report, &look, None).draw(&look, 0);
        assert!(drawn.iter().all(|line| line.width() <= 80));
        assert!(plain(&report).lines().all(|line| !line.contains('\u{1b}')));
        drop((graph::svg(&report), graph::dot(&report), graph::mermaid(&report)));
    }
}
