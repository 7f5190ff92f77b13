//! The matcher: a glob as a program, run by backtracking that never visits the same instruction at the same place
//! twice. That bounds the work by glob × path and makes loops over nothing end.

use super::parse::{Class, Node, Repeat};

enum Step {
    Char(char),
    /// A character that is no `/`.
    One,
    /// Any character.
    Any,
    Class(Class),
    /// Try the first, then the second.
    Split(usize, usize),
    Jump(usize),
    Save(usize),
    /// The longest text of this part that none of the programs matches as a whole, then shorter ones.
    Not(Vec<Program>),
    Match,
}

/// A compiled glob.
#[derive(Default)]
pub(super) struct Program {
    steps: Vec<Step>,
}

enum Todo {
    Go(usize, usize),
    Restore(usize, Option<usize>),
}

impl Program {
    pub(super) fn compile(nodes: &[Node]) -> Self {
        let mut program = Self::default();
        program.sequence(nodes);
        program.steps.push(Step::Match);
        program
    }

    fn sequence(&mut self, nodes: &[Node]) {
        for node in nodes {
            self.node(node);
        }
    }

    fn node(&mut self, node: &Node) {
        match node {
            Node::Literal(c) => self.steps.push(Step::Char(*c)),
            Node::One => self.steps.push(Step::One),
            Node::Class(class) => self.steps.push(Step::Class(class.clone())),
            Node::Star => self.repeated(|p| p.steps.push(Step::One)),
            Node::Cross => self.repeated(|p| p.steps.push(Step::Any)),
            Node::Parts => {
                let split = self.hole();
                self.repeated(|p| p.steps.push(Step::Any));
                self.steps.push(Step::Char('/'));
                self.steps[split] = Step::Split(split + 1, self.steps.len());
            }
            Node::Braces(alternatives) => self.alternatives(alternatives),
            Node::Group(Repeat::Not, number, alternatives) => {
                self.steps.push(Step::Save(2 * number));
                self.steps
                    .push(Step::Not(alternatives.iter().map(|a| Self::compile(a)).collect()));
                self.steps.push(Step::Save(2 * number + 1));
            }
            Node::Group(repeat, number, alternatives) => {
                self.steps.push(Step::Save(2 * number));
                match repeat {
                    Repeat::Any => self.repeated(|p| p.alternatives(alternatives)),
                    Repeat::AtLeastOnce => {
                        let start = self.steps.len();
                        self.alternatives(alternatives);
                        self.steps.push(Step::Split(start, self.steps.len() + 1));
                    }
                    Repeat::Optional => {
                        let split = self.hole();
                        self.alternatives(alternatives);
                        self.steps[split] = Step::Split(split + 1, self.steps.len());
                    }
                    Repeat::Once | Repeat::Not => self.alternatives(alternatives),
                }
                self.steps.push(Step::Save(2 * number + 1));
            }
        }
    }

    fn hole(&mut self) -> usize {
        self.steps.push(Step::Match);
        self.steps.len() - 1
    }

    fn repeated(&mut self, body: impl FnOnce(&mut Self)) {
        let split = self.hole();
        body(self);
        self.steps.push(Step::Jump(split));
        self.steps[split] = Step::Split(split + 1, self.steps.len());
    }

    fn alternatives(&mut self, alternatives: &[Vec<Node>]) {
        let mut ends = Vec::new();
        for (i, alternative) in alternatives.iter().enumerate() {
            let last = i + 1 == alternatives.len();
            let split = (!last).then(|| self.hole());
            self.sequence(alternative);
            if let Some(split) = split {
                ends.push(self.hole());
                self.steps[split] = Step::Split(split + 1, self.steps.len());
            }
        }
        for end in ends {
            self.steps[end] = Step::Jump(self.steps.len());
        }
    }

    /// Matches the whole text; the slots are the bounds of the groups.
    pub(super) fn matches(&self, text: &str, groups: usize) -> Option<Vec<Option<usize>>> {
        let mut slots = vec![None; groups * 2];
        self.run(text, &mut slots, &mut false).then_some(slots)
    }

    /// Whether some longer text that begins with this one may match.
    pub(super) fn may_go_on_after(&self, text: &str) -> bool {
        let mut wants_more = false;
        self.run(text, &mut [], &mut wants_more);
        wants_more
    }

    fn run(&self, text: &str, slots: &mut [Option<usize>], wants_more: &mut bool) -> bool {
        let width = text.len() + 1;
        let mut visited = vec![0u64; (self.steps.len() * width).div_ceil(64)];
        let mut stack = vec![Todo::Go(0, 0)];
        while let Some(todo) = stack.pop() {
            let (mut pc, mut at) = match todo {
                Todo::Go(pc, at) => (pc, at),
                Todo::Restore(slot, old) => {
                    slots[slot] = old;
                    continue;
                }
            };
            loop {
                let bit = pc * width + at;
                if visited[bit / 64] & (1 << (bit % 64)) != 0 {
                    break;
                }
                visited[bit / 64] |= 1 << (bit % 64);
                match &self.steps[pc] {
                    Step::Match if at == text.len() => return true,
                    Step::Match => break,
                    Step::Jump(to) => pc = *to,
                    Step::Split(first, second) => {
                        stack.push(Todo::Go(*second, at));
                        pc = *first;
                    }
                    Step::Save(slot) => {
                        if let Some(value) = slots.get_mut(*slot) {
                            stack.push(Todo::Restore(*slot, *value));
                            *value = Some(at);
                        }
                        pc += 1;
                    }
                    Step::Not(programs) => {
                        let rest = &text[at..];
                        let part = &rest[..rest.find('/').unwrap_or(rest.len())];
                        *wants_more |= part.len() == rest.len();
                        let ends = part.char_indices().map(|(i, _)| i).chain([part.len()]);
                        let free = |end: &usize| !programs.iter().any(|p| p.run(&part[..*end], &mut [], &mut false));
                        stack.extend(ends.filter(free).map(|end| Todo::Go(pc + 1, at + end)));
                        break;
                    }
                    consuming => {
                        let Some(c) = text[at..].chars().next() else {
                            *wants_more = true;
                            break;
                        };
                        if !consuming.takes(c) {
                            break;
                        }
                        at += c.len_utf8();
                        pc += 1;
                    }
                }
            }
        }
        false
    }
}

impl Step {
    fn takes(&self, c: char) -> bool {
        match self {
            Self::Char(wanted) => c == *wanted,
            Self::One => c != '/',
            Self::Any => true,
            Self::Class(class) => class.has(c),
            _ => false,
        }
    }
}
