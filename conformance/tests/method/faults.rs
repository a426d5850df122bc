//! Faults as data: what a method does wrong, and the check that is meant to find it.

/// One thing done wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    AnswersTooEarly,
    CopyForgetsTheOrder,
    CountsAreOneMore,
    DecidesByChance,
    DecidesByTheFirstRow,
    DecidesByTheMeanOfTheBatch,
    FailsOnOddGrids,
    ForgetsOnlyAtTheExit,
    IdleRemovesOne,
    IdleRounds,
    KeepsNothing,
    KeptIsOneMore,
    NeverForgets,
    PlansServeOtherGrids,
    PositionsAreOfOneRow,
    PositionsDescend,
    PositionsLieBeyond,
    PositionsRepeat,
    ProtectedAreMerged,
    ProtectedAreRemoved,
    ReadsShapesBlindly,
    RemembersByPlace,
    RestoresNan,
    RestoresTooFew,
    RestorePanics,
    ShrinkTakesAnything,
}

use Fault::*;

/// Every fault with the check that is meant for it.
pub(crate) const FAULTS: &[(Fault, &str)] = &[
    (AnswersTooEarly, "every_life_runs"),
    (CopyForgetsTheOrder, "a_copy_does_the_same"),
    (CountsAreOneMore, "counts_are_those_planned"),
    (DecidesByChance, "equal_runs_are_equal"),
    (DecidesByTheFirstRow, "images_do_not_depend_on_their_batch"),
    (DecidesByTheMeanOfTheBatch, "images_do_not_depend_on_their_batch"),
    (FailsOnOddGrids, "every_life_runs"),
    (ForgetsOnlyAtTheExit, "a_cancelled_run_leaves_nothing"),
    (IdleRemovesOne, "asked_for_nothing_it_does_nothing"),
    (IdleRounds, "asked_for_nothing_it_does_nothing"),
    (KeepsNothing, "a_token_always_stays"),
    (KeptIsOneMore, "shrink_and_restore_fit"),
    (NeverForgets, "a_run_forgets_the_runs_before"),
    (PlansServeOtherGrids, "every_life_runs"),
    (PositionsAreOfOneRow, "positions_name_what_stays"),
    (PositionsDescend, "positions_name_what_stays"),
    (PositionsLieBeyond, "positions_name_what_stays"),
    (PositionsRepeat, "positions_name_what_stays"),
    (ProtectedAreMerged, "protected_tokens_are_untouched"),
    (ProtectedAreRemoved, "protected_tokens_are_untouched"),
    (ReadsShapesBlindly, "wrong_tensors_never_panic"),
    (RemembersByPlace, "images_may_take_turns"),
    (RestoresNan, "shrink_and_restore_fit"),
    (RestoresTooFew, "shrink_and_restore_fit"),
    (RestorePanics, "reductions_refuse_what_does_not_fit"),
    (ShrinkTakesAnything, "reductions_refuse_what_does_not_fit"),
];
