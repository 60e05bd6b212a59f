//! Whether what clients did to registers is linearizable: rules L-REGISTER and
//! L-BESIDE.

use kvquorum_testing::linearizability::{NotLinearizable, Operation, Step, check};

use super::*;

impl Oracle {
    /// Checks the history of each register, up to where a replica lost what it held:
    /// beyond that nothing of the kind is promised.
    pub fn check_histories(&mut self) {
        for key in 0..self.keys.len() {
            if !self.keys[key].is_register {
                continue;
            }
            let operations = self.history(key);
            if let Err(explained) = check(&operations) {
                self.broken("L-REGISTER, L-BESIDE", || {
                    let error = NotLinearizable {
                        key: format!("k{key}"),
                        operations,
                        explained,
                    };
                    error.to_string()
                });
            }
        }
    }

    fn history(&self, key: usize) -> Vec<Operation<u64>> {
        let end = self.lost.unwrap_or(u64::MAX);
        let ops = self.ops.iter().enumerate();
        let ops = ops.filter(|(_, op)| op.key == key && op.called < end);
        let expires = self.keys[key].has_expiring();
        let expiries = self.keys[key].expiries.iter().filter(|it| it.called < end);
        let mut operations: Vec<_> = expiries
            .map(|expiry| Operation {
                called: expiry.called,
                returned: None,
                step: Step::Swap(expiry.value, None),
            })
            .collect();
        for (index, op) in ops {
            // What came back later may have been under way when data were lost.
            let returned = op.returned.filter(|returned| *returned < end);
            let own = (index as u64).reverse_bits();
            let pending = pending(op.kind, own, expires);
            // An attempt of a plain write may even be seen as if it came before.
            let mut at_any_time = op.attempts.len();
            if let (Some(step), Some(_)) = (&op.step, returned) {
                operations.push(Operation {
                    called: op.called,
                    returned,
                    step: step.clone(),
                });
                at_any_time = at_any_time.saturating_sub(1);
            } else if let (false, Some(step), Kind::Register(_)) = (op.denied, &pending, op.kind) {
                operations.push(Operation {
                    called: op.called,
                    returned: None,
                    step: step.clone(),
                });
            }
            if let (false, Some(step)) = (op.denied, pending) {
                let attempt = Operation {
                    called: 0,
                    returned: None,
                    step,
                };
                operations.extend(std::iter::repeat_n(attempt, at_any_time));
            }
        }
        operations
    }
}

/// What an operation may do of which no client was told, to a register of which values may
/// expire, and be taken for none; `None` where that is nothing.
fn pending(kind: Kind, own: u64, expires: bool) -> Option<Step<u64>> {
    match kind {
        Kind::Register(Ask::CompareAndSet(None) | Ask::Create) if expires => {
            Some(Step::Write(Some(own)))
        }
        Kind::Put | Kind::Foreign | Kind::Register(Ask::Put | Ask::Update) => {
            Some(Step::Write(Some(own)))
        }
        Kind::Delete | Kind::Register(Ask::Delete | Ask::Take) => Some(Step::Write(None)),
        Kind::Register(Ask::CompareAndSet(expected)) => Some(Step::Swap(expected, Some(own))),
        Kind::Register(Ask::Create) => Some(Step::Swap(None, Some(own))),
        Kind::Get
        | Kind::Scan
        | Kind::Register(Ask::Get | Ask::Keep)
        | Kind::Rejoin
        | Kind::Pass
        | Kind::Collect
        | Kind::Handoff => None,
    }
}
