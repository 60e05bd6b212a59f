//! Sets of small numbers, of which nearly all up to some number are in it.

use std::collections::VecDeque;

/// Two sets are equal if, and only if, they hold the same numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Bits {
    /// How many words of ones come before `words`. Neither do those begin with one,
    /// nor do they end with zeros.
    full: usize,
    words: VecDeque<u64>,
}

const WORD: usize = u64::BITS as usize;

impl Bits {
    /// All numbers below this are in the set.
    pub(super) fn all_below(&self) -> usize {
        self.full * WORD
    }

    pub(super) fn contains(&self, number: usize) -> bool {
        let (word, bit) = (number / WORD, number % WORD);
        match word.checked_sub(self.full) {
            None => true,
            Some(word) => self.words.get(word).is_some_and(|it| it >> bit & 1 == 1),
        }
    }

    pub(super) fn insert(&mut self, number: usize) {
        let (word, bit) = (number / WORD, number % WORD);
        let Some(word) = word.checked_sub(self.full) else {
            return;
        };
        if self.words.len() <= word {
            self.words.resize(word + 1, 0);
        }
        self.words[word] |= 1 << bit;
        while self.words.front() == Some(&u64::MAX) {
            self.words.pop_front();
            self.full += 1;
        }
    }

    pub(super) fn remove(&mut self, number: usize) {
        let (word, bit) = (number / WORD, number % WORD);
        while word < self.full {
            self.words.push_front(u64::MAX);
            self.full -= 1;
        }
        if let Some(it) = self.words.get_mut(word - self.full) {
            *it &= !(1 << bit);
        }
        while self.words.back() == Some(&0) {
            self.words.pop_back();
        }
    }
}
