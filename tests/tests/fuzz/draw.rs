//! Random choices of a case. A case's number is its seed, so the number alone makes the same files again.

use proptest::collection::{btree_map, vec};
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde_json::Value;

/// A source of choices.
pub(crate) struct Draw(TestRunner);

impl Draw {
    /// The choices of a case.
    pub(crate) fn new(case: u64) -> Self {
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&case.to_le_bytes());
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
        Self(TestRunner::new_with_rng(Config::default(), rng))
    }

    /// Draws a value of a strategy.
    pub(crate) fn of<S: Strategy>(&mut self, strategy: S) -> S::Value {
        strategy.new_tree(&mut self.0).expect("strategies here reject nothing").current()
    }

    /// A number below `count`, which is not 0.
    pub(crate) fn below(&mut self, count: usize) -> usize {
        self.of(0..count)
    }

    /// Whether an event happens that has a chance of one in `count`.
    pub(crate) fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    /// One of these values. There must be at least one.
    pub(crate) fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

/// Numbers at the limits of types and of memory, and other numbers.
pub(crate) fn number() -> impl Strategy<Value = Value> {
    let whole = [0i64, 1, -1, 2, 7, 1 << 16, 1 << 20, 1 << 31, 1 << 32, 1 << 40, i64::MAX, i64::MIN];
    let broken = [0.5, -0.0, 1e-320, 1e308, -1e308, 1e19, 3.000_000_1];
    prop_oneof![
        proptest::sample::select(whole.to_vec()).prop_map(Value::from),
        proptest::sample::select(broken.to_vec()).prop_map(Value::from),
        Just(Value::from(u64::MAX)),
        any::<i64>().prop_map(Value::from),
        (-64i64..4096).prop_map(Value::from),
    ]
}

/// Texts that are paths, terminal control sequences, options, too long, or arbitrary.
pub(crate) fn text() -> impl Strategy<Value = String> {
    let known = [
        "",
        " ",
        ".",
        "..",
        "/",
        "/etc/hostname",
        "../../outside/kept",
        "../outside/kept",
        "a/../../b",
        "\0",
        "a\nb",
        "\t",
        "\u{1b}[31mred\u{1b}]0;title\u{7}",
        "\u{202e}turned",
        "\u{feff}mark",
        "nan",
        "inf",
        "-1",
        "1e400",
        "null",
        "NaN%",
        "<|endoftext|>",
        "\"quoted\"",
        "{}",
        "at-edm",
        "none",
        "tome",
        "F32",
        "BF16",
        "I64",
        "silu",
    ];
    prop_oneof![
        4 => proptest::sample::select(known.to_vec()).prop_map(str::to_string),
        1 => any::<String>(),
        1 => (1usize..200_000).prop_map(|count| "long ".repeat(count / 5)),
    ]
}

/// Any JSON value of small depth.
pub(crate) fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        number(),
        text().prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            btree_map("[a-z_]{0,8}", inner, 0..4).prop_map(|entries| entries.into_iter().collect()),
        ]
    })
}
