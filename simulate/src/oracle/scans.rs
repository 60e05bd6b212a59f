//! Scans: rule R-RANGE.

use std::ops::{Bound, RangeBounds};

use kvquorum_core::{Bytes, KeyRange, Page};

use super::collected::{Answer, possible};
use super::*;

/// One page of a scan, as it goes over links.
pub(super) struct PageState {
    /// Where it begins.
    from: Key,
    /// How many entries were known to be acknowledged under each key when it began.
    acknowledged: Vec<usize>,
    /// Replicas that were called, as a set of bits.
    called: u32,
    /// In the order in which they came.
    answers: Vec<Page>,
    failed: usize,
}

/// What a page has to hold.
struct Merged {
    /// How far it goes; `None` is to the end.
    upto: Option<Key>,
    /// Under each key, what the answers say that decide, and what all of them say that
    /// had come then, for each that comes later.
    best: Vec<Vec<Answer>>,
}

/// What a client is told of a scan.
pub struct Scanned<'a> {
    pub range: &'a KeyRange,
    pub found: &'a [(Key, Bytes)],
    /// What is left of the range.
    pub rest: Option<KeyRange>,
    /// How its last page failed.
    pub failed: Option<PageFailed>,
}

pub(super) fn start(range: &KeyRange) -> Key {
    match range.start_bound() {
        Bound::Included(from) => from.clone(),
        // There is no such range.
        Bound::Excluded(_) | Bound::Unbounded => Key::from(""),
    }
}

fn show_value(value: Option<u64>) -> String {
    value.map_or("nothing".into(), |value| {
        format!("#{}", value.reverse_bits())
    })
}

/// Whether a key is before this one; `None` is the end.
fn is_before(key: &Key, end: Option<&Key>) -> bool {
    end.is_none_or(|end| key < end)
}

impl PageState {
    fn merged(&self, r: usize, keys: usize) -> Merged {
        let deciding = self.answers.iter().take(r);
        let upto = deciding.filter_map(|page| page.upto.clone()).min();
        let best = (0..keys).map(|index| possible(&self.told(&key(index)), r));
        Merged {
            best: best.collect(),
            upto,
        }
    }

    /// What each replica told of a key.
    fn told(&self, key: &Key) -> Vec<Answer> {
        let of_key = |page: &Page| {
            let mut entries = page.entries.iter();
            let entry = entries.find(|(it, _)| it == key);
            Answer {
                collected: page.collected,
                stamp: entry.map(|(_, entry)| Stamp::of(entry)),
            }
        };
        let telling = self.answers.iter();
        let telling = telling.filter(|page| is_before(key, page.upto.as_ref()));
        telling.map(of_key).collect()
    }
}

impl Oracle {
    /// A replica is asked for a page, which may be one before the last, where it was
    /// slow to introduce itself. Tells which page it is.
    pub(super) fn scanning(&mut self, index: usize, replica: usize, range: &KeyRange) -> usize {
        let op = &self.ops[index];
        let (client, coordinator) = (op.client, op.coordinator);
        self.coordinators[coordinator].has_scanned = true;
        let (from, bit) = (start(range), 1 << replica);
        let known = op.pages.iter().position(|page| page.from == from);
        let gets_on = match known {
            Some(place) => op.pages[place].called & bit == 0,
            None => op.pages.last().is_none_or(|last| last.from < from),
        };
        if !gets_on && !self.ops[index].is_unsettled {
            self.broken("R-RANGE", || {
                format!("#{index} asks for the page from {from} again")
            });
        }
        let place = known.unwrap_or_else(|| {
            self.log(Who::Client(client), &[18, index as u64], || {
                format!("  #{index} asks for the page from {from}")
            });
            let acknowledged = self.keys.iter().map(|key| key.acknowledged.len()).collect();
            let pages = &mut self.ops[index].pages;
            pages.push(PageState {
                from,
                acknowledged,
                called: 0,
                answers: Vec::new(),
                failed: 0,
            });
            pages.len() - 1
        });
        self.ops[index].pages[place].called |= bit;
        place
    }

    pub(super) fn answered_page(&mut self, call: Call, answered: &Answered<'_>) {
        let Some(op) = call.op.map(|op| &mut self.ops[op]) else {
            return;
        };
        if call.introduces {
            op.unintroduced += 1;
            return;
        }
        let Some(page) = op.pages.get_mut(call.attempt) else {
            return;
        };
        match answered {
            Answered::Response(Response::Page(answer)) => page.answers.push((**answer).clone()),
            // To a repair.
            Answered::Response(Response::Ack(_)) => {}
            Answered::Response(Response::Refused(_)) if page.answers.len() >= self.quorums.r => {}
            _ => page.failed += 1,
        }
    }

    /// A client is told what a scan came to.
    pub fn scanned(&mut self, index: usize, scanned: &Scanned<'_>) {
        let client = self.ops[index].client;
        let (count, failed) = (scanned.found.len() as u64, scanned.failed.is_some());
        let numbers = [19, index as u64, count, u64::from(failed)];
        self.log(Who::Client(client), &numbers, || {
            let ended = scanned
                .failed
                .map_or("ends".into(), |how| format!("fails: {how:?}"));
            format!("#{index} finds {count} keys, and {ended}")
        });
        self.finish(index);
        self.counts.scanned += count;
        let ordered = scanned.found.is_sorted_by(|(one, _), (next, _)| one < next);
        let within = scanned
            .found
            .iter()
            .all(|(key, _)| scanned.range.contains(key));
        if !ordered || !within {
            self.broken("R-RANGE", || {
                let keys: Vec<_> = scanned
                    .found
                    .iter()
                    .map(|(key, _)| key.to_string())
                    .collect();
                format!("#{index} finds {}", keys.join(", "))
            });
        }
        let pages = std::mem::take(&mut self.ops[index].pages);
        if self.ops[index].is_unsettled {
            return self.check_unsettled(index, &pages, scanned);
        }
        let read = pages.len() - usize::from(failed && !pages.is_empty());
        let mut from = Some(start(scanned.range));
        for page in pages.iter().take(read) {
            if Some(&page.from) != from.as_ref() {
                let at = &page.from;
                self.broken("R-RANGE", || {
                    format!("#{index} passes over what is from {from:?} up to {at}")
                });
            }
            from = self.check_page(index, page, scanned);
        }
        let is_at_end = scanned.rest.is_none() && !failed;
        if is_at_end && from.is_some() && !scanned.range.is_empty() {
            self.broken("R-RANGE", || format!("#{index} ends before {from:?}"));
        }
        if let (Some(failed), Some(page)) = (scanned.failed, pages.last()) {
            self.check_failed_page(index, page, failed);
        }
        self.check_rest(index, scanned, from);
        // Replicas that were slow to introduce themselves are still to be asked.
        self.ops[index].pages = pages;
    }

    /// A page holds what a get of each key would have returned. Tells where the next
    /// one begins.
    fn check_page(&mut self, index: usize, page: &PageState, scanned: &Scanned<'_>) -> Option<Key> {
        let Quorums { n, w, r } = self.quorums;
        self.counts.pages += 1;
        let merged = page.merged(r, self.keys.len());
        if page.answers.len() < r {
            self.broken("R-RANGE", || {
                format!("#{index} has a page of {} answers", page.answers.len())
            });
        }
        // What was handed out, where not all of the last page was.
        let rest = scanned.rest.as_ref().map(start);
        let readings = self.readings(index);
        for place in 0..self.keys.len() {
            let name = key(place);
            if name < page.from
                || !is_before(&name, merged.upto.as_ref())
                || !is_before(&name, rest.as_ref())
                || !scanned.range.contains(&name)
            {
                continue;
            }
            let found = scanned.found.iter().find(|(key, _)| *key == name);
            let found = found.map(|(_, value)| Stamp::value_of(value));
            let possible = &merged.best[place];
            let is_found = |it: &&Answer| readings.may_find(it.stamp, found);
            let told: Vec<Answer> = possible.iter().filter(is_found).copied().collect();
            let Some(last) = told.last().copied() else {
                let said = possible.iter().map(|it| show(it.stamp)).collect::<Vec<_>>();
                self.broken("R-RANGE, G-VOID, X-HIDE", || {
                    let (found, said) = (show_value(found), said.join(", or "));
                    format!("#{index} finds {found} under k{place}, where answers say {said}")
                });
                continue;
            };
            let floor = self.keys[place].floor(page.acknowledged[place], n, r);
            let floor = floor.map(|floor| self.keys[place].acknowledged[floor].stamp);
            let reaches = |it: &Answer| self.keys[place].reaches(*it, floor);
            if r + w > n && self.keeps_promises() && !told.iter().any(reaches) {
                self.broken("a scan finds what was acknowledged", || {
                    let (floor, found) = (show(floor), show(last.stamp));
                    format!("#{index} finds {found} under k{place} after {floor} was acknowledged")
                });
            }
            self.check_dead(index, place, last.stamp);
            let deciding = possible.first().and_then(|it| it.stamp);
            let of_all = possible.last().and_then(|it| it.stamp);
            self.found_by_scan(index, place, deciding, of_all);
        }
        merged.upto
    }

    /// Where pages were asked for more than once, it is not known which answers decided
    /// them: what is found was told, and is no less than what was acknowledged before.
    fn check_unsettled(&mut self, index: usize, pages: &[PageState], scanned: &Scanned<'_>) {
        let Quorums { n, w, r } = self.quorums;
        let Some(first) = pages.first().filter(|_| r + w > n) else {
            return;
        };
        let rest = scanned.rest.as_ref().map(start);
        let readings = self.readings(index);
        for place in 0..self.keys.len() {
            let name = key(place);
            let is_read = is_before(&name, rest.as_ref()) && scanned.range.contains(&name);
            let floor = self.keys[place].floor(first.acknowledged[place], n, r);
            let floor = floor.map(|floor| self.keys[place].acknowledged[floor].stamp);
            let found = scanned.found.iter().find(|(key, _)| *key == name);
            let found = found.map(|(_, value)| Stamp::value_of(value));
            if !is_read || found.is_none() && floor.is_none() {
                continue;
            }
            // Nothing is found also where nobody tells of anything.
            let is_told = |it: &Answer| {
                readings.may_find(it.stamp, found) && self.keys[place].reaches(*it, floor)
            };
            let mut told = pages.iter().flat_map(|page| page.told(&name));
            if !told.any(|it| is_told(&it)) && self.keeps_promises() {
                self.broken("a scan finds what was acknowledged", || {
                    let (found, floor) = (show_value(found), show(floor));
                    format!("#{index} finds {found} under k{place} after {floor} was acknowledged")
                });
            }
            if let Some(found) = found {
                self.check_dead_value(index, place, found);
            }
        }
    }

    fn found_by_scan(
        &mut self,
        index: usize,
        place: usize,
        deciding: Option<Stamp>,
        of_all: Option<Stamp>,
    ) {
        let origins = &self.keys[place].origins;
        let is_forbidden = |stamp: &Stamp| origins.get(stamp).is_none_or(Origin::is_forbidden);
        if let Some(stamp) = of_all.filter(is_forbidden) {
            self.broken("nothing that nobody wrote", || {
                format!("#{index} finds {stamp}")
            });
        }
        let Some(stamp) = deciding else { return };
        if deciding == of_all {
            self.observed(index, stamp);
        }
        let coordinator = self.ops[index].coordinator;
        if self.coordinators[coordinator].settings.blocking {
            self.held_back(reads::NEVER_BACK, index, place, stamp);
        }
    }

    /// R-FAIL, for a page.
    fn check_failed_page(&mut self, index: usize, page: &PageState, how: PageFailed) {
        let Quorums { n, r, .. } = self.quorums;
        self.counts.failed += 1;
        let answered = page.answers.len();
        // For which page a replica was to introduce itself is not known.
        let failed = page.failed + self.ops[index].unintroduced;
        let as_should = match how {
            PageFailed::TooFewAnswers => answered < r && failed > n - r,
            PageFailed::NotRepaired => answered >= r,
        };
        if !as_should && !self.ops[index].is_unsettled {
            self.broken("R-FAIL", || {
                format!("#{index} fails with {answered} answers and {failed} failures: {how:?}")
            });
        }
    }

    /// What is left begins after what was handed out, and not beyond what was read.
    fn check_rest(&mut self, index: usize, scanned: &Scanned<'_>, upto: Option<Key>) {
        let Some(rest) = scanned.rest.as_ref().map(start) else {
            return;
        };
        let last = scanned.found.last().map(|(key, _)| key);
        let is_beyond = upto.is_some_and(|upto| rest > upto);
        if Some(&rest) <= last || is_beyond {
            self.broken("R-RANGE", || format!("#{index} leaves what is from {rest}"));
        }
    }
}
