//! One line per client, served in turns: whoever has come with a thousand requests waits for his second one until
//! everybody else was served once.

use super::Client;
use std::collections::{BTreeMap, VecDeque};

/// Who waits. A client is in `turns` once for as long as its line is not empty.
#[derive(Debug)]
pub(super) struct Lines<T> {
    lines: BTreeMap<Client, VecDeque<T>>,
    turns: VecDeque<Client>,
    waiting: usize,
}

impl<T> Default for Lines<T> {
    fn default() -> Self {
        Self {
            lines: BTreeMap::new(),
            turns: VecDeque::new(),
            waiting: 0,
        }
    }
}

impl<T> Lines<T> {
    pub(super) fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    /// In all lines together.
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    /// How many are served before one that `client` adds now.
    pub(super) fn ahead(&self, client: &Client) -> usize {
        let own = self.lines.get(client).map_or(0, VecDeque::len);
        // Of each other line as many as are served before it, which the turns allow.
        let others = self.lines.iter().filter(|(other, _)| *other != client);
        let others: usize = others.map(|(_, line)| line.len().min(own + 1)).sum();
        own + others
    }

    pub(super) fn waiting_of(&self, client: &Client) -> usize {
        self.lines.get(client).map_or(0, VecDeque::len)
    }

    pub(super) fn push(&mut self, client: &Client, item: T) {
        let line = self.lines.entry(client.clone()).or_default();
        if line.is_empty() {
            self.turns.push_back(client.clone());
        }
        line.push_back(item);
        self.waiting += 1;
    }

    /// Whose turn it is.
    pub(super) fn pop(&mut self) -> Option<T> {
        let client = self.turns.pop_front()?;
        let line = self.lines.get_mut(&client)?;
        let item = line.pop_front();
        if line.is_empty() {
            self.lines.remove(&client);
        } else {
            self.turns.push_back(client);
        }
        self.waiting -= usize::from(item.is_some());
        item
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(name: &str) -> Client {
        Client(name.to_owned())
    }

    #[test]
    fn clients_are_served_in_turns_and_each_in_order() {
        let mut lines = Lines::default();
        for (name, item) in [("a", 1), ("a", 2), ("a", 3), ("b", 4), ("c", 5), ("b", 6)] {
            lines.push(&client(name), item);
        }
        assert_eq!(lines.waiting(), 6);
        let served: Vec<_> = std::iter::from_fn(|| lines.pop()).collect();
        assert_eq!(served, [1, 4, 5, 2, 6, 3]);
        assert!(lines.is_empty() && lines.lines.is_empty() && lines.turns.is_empty());
    }

    #[test]
    fn newcomer_waits_for_one_of_each_line() {
        let mut lines = Lines::default();
        for item in 0..100 {
            lines.push(&client("flood"), item);
        }
        lines.push(&client("other"), 100);
        assert_eq!(lines.ahead(&client("polite")), 2);
        assert_eq!(lines.ahead(&client("flood")), 101);
        lines.push(&client("polite"), 1_000);
        let place = std::iter::from_fn(|| lines.pop()).position(|item| item == 1_000);
        assert_eq!(place, Some(2));
    }
}
