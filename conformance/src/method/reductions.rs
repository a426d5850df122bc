//! What every reduction that a method answers must do.

use std::panic::{AssertUnwindSafe, catch_unwind};

use atedm_core::{Backend, Result};
use proptest::prelude::{Strategy, prop_oneof};
use proptest::sample::select;

use super::Subject;
use super::commands::{Command, Picture, lives, pictures, protected_pictures, video_lives};
use super::machine::{Machine, Played, table};
use super::watch::{Fact, Places, Stream, Tamper};
use super::wrong::WrongTensor;
use crate::host::Array;
use crate::oracle::binary;
use crate::random::{RUNS, forall};
use crate::report::panic_message;
use crate::tolerance::assert_chain_arrays;

/// Evaluations of a picture, one after the other.
pub(super) fn evaluations(picture: &Picture, count: usize) -> Vec<Command> {
    [vec![Command::Begin(picture.clone())], vec![Command::Evaluate; count]].concat()
}

impl<B: Backend> Subject<B> {
    pub(super) fn machine(&self) -> Result<Machine<'_, B>> {
        Machine::new(&self.device, self.dtype)
    }

    /// A method built anew on this life.
    pub(super) fn play(&self, machine: &Machine<'_, B>, life: &[Command]) -> Result<Played> {
        Ok(machine.play((self.build)()?.as_mut(), life))
    }

    /// Checks every reduction of generated lives, and that they run to their end.
    fn for_each_reduction(&self, check: impl Fn(&Fact)) -> Result<()> {
        let machine = self.machine()?;
        forall(RUNS, lives(), |life| {
            let played = machine.try_out((self.build)()?.as_mut(), &life);
            played.facts.iter().for_each(&check);
            played.failure.map_or(Ok(()), Err)
        });
        Ok(())
    }
}

/// No sequence of runs, steps, blocks, batches and grids is an error: answers come only where they are allowed.
pub fn every_life_runs<B: Backend>(subject: &Subject<B>) -> Result<()> {
    subject.for_each_reduction(|_| {})
}

/// A reduction keeps at least one token, and no more than there are.
pub fn a_token_always_stays<B: Backend>(subject: &Subject<B>) -> Result<()> {
    subject.for_each_reduction(|fact| {
        let tokens = fact.input.shape[1];
        let fits = (1..=tokens).contains(&fact.kept);
        assert!(fits, "{}: {} of {tokens} tokens stay", fact.at, fact.kept);
    })
}

/// Shrinking gives as many tokens as are kept, restoring gives all of them back.
pub fn shrink_and_restore_fit<B: Backend>(subject: &Subject<B>) -> Result<()> {
    subject.for_each_reduction(fits)
}

fn fits(fact: &Fact) {
    let [batch, _, channels] = fact.input.shape[..] else { panic!("{}: {:?}", fact.at, fact.input.shape) };
    assert_eq!(fact.shrunk.shape, [batch, fact.kept, channels], "{}: shrunk", fact.at);
    assert_eq!(fact.restored.shape, fact.input.shape, "{}: restored", fact.at);
    let finite = |array: &Array| array.data.iter().all(|x| x.is_finite());
    assert!(finite(&fact.shrunk) && finite(&fact.restored), "{}: not finite", fact.at);
}

/// What is added to the shrunk tokens is restored apart from them: `restore(x + a) = restore(x) + restore_added(a)`.
pub fn what_is_added_is_restored_apart<B: Backend>(subject: &Subject<B>) -> Result<()> {
    subject.for_each_reduction(|fact| {
        let sum = binary(&fact.restored, &fact.added, |restored, added| restored + added);
        assert_chain_arrays(&fact.doubled, &sum, subject.dtype, &format!("{}: twice the tokens", fact.at));
    })
}

/// A copy of a reduction shrinks and restores as the reduction does.
pub fn a_copy_does_the_same<B: Backend>(subject: &Subject<B>) -> Result<()> {
    subject.for_each_reduction(|fact| {
        assert!(fact.copied[0] == fact.shrunk, "{}: the copy shrinks otherwise", fact.at);
        assert!(fact.copied[1] == fact.restored, "{}: the copy restores otherwise", fact.at);
    })
}

/// Positions, where there are any: one for each token kept, each once, all within the input. Those of the stream ascend:
/// it keeps its order.
pub fn positions_name_what_stays<B: Backend>(subject: &Subject<B>) -> Result<()> {
    subject.for_each_reduction(|fact| {
        let Some(rows) = &fact.positions else { return };
        let (batch, tokens) = (fact.input.shape[0], fact.input.shape[1]);
        assert_eq!(rows.len(), batch, "{}: rows of positions", fact.at);
        for row in rows {
            assert_eq!(row.len(), fact.kept, "{}: {row:?}", fact.at);
            let mut sorted = row.clone();
            sorted.sort_unstable();
            assert!(fact.scope.is_some() || sorted == *row, "{}: {row:?} do not ascend", fact.at);
            sorted.dedup();
            let fits = sorted.len() == row.len() && sorted.iter().all(|&place| (place as usize) < tokens);
            assert!(fits, "{}: {row:?} among {tokens} tokens", fact.at);
        }
    })
}

/// Joint attention and parallel sublayers, in pictures and in videos: the method works there, or it refuses with an error of
/// one line. Its reductions fit.
pub fn transformers_run_or_are_refused<B: Backend>(subject: &Subject<B>) -> Result<()> {
    let machine = Machine::<B>::of_transformer(&subject.device, subject.dtype)?;
    forall(RUNS, video_lives(), |life| {
        let played = machine.try_out((subject.build)()?.as_mut(), &life);
        played.facts.iter().for_each(fits);
        played.unless_refused().map(drop)
    });
    Ok(())
}

/// A per-token table follows the tokens: every sublayer is given the rows that the positions of all reductions so far name,
/// and a plugin error where tokens stand for no single places.
pub fn tables_follow_the_tokens<B: Backend>(subject: &Subject<B>) -> Result<()> {
    let transformer = Machine::<B>::of_transformer(&subject.device, subject.dtype)?;
    for machine in [subject.machine()?, transformer] {
        let machine = machine.probing();
        forall(RUNS, lives(), |life| {
            let (evaluations, places) = subject.play(&machine, &life)?.unless_refused()?;
            let gathered = evaluations.iter().flat_map(|evaluation| &evaluation.gathered);
            for (Places { at, queries, keys }, rows) in places.iter().zip(gathered) {
                assert_rows(queries, rows.queries.as_ref(), &format!("{at}: queries"));
                if let Some(rows) = &rows.keys {
                    assert_rows(keys, rows.as_ref(), &format!("{at}: keys"));
                }
            }
            Ok(())
        });
    }
    Ok(())
}

/// Panics unless these rows of the table are those of `places`.
fn assert_rows(places: &Stream, rows: Option<&Array>, at: &str) {
    match (places, rows) {
        (Stream::Unknown, rows) => assert!(rows.is_none(), "{at} stand for no places and got rows"),
        (_, None) => panic!("{at} were refused rows"),
        (Stream::Whole, Some(rows)) => assert!(*rows == table(rows.shape[0]), "{at}: not the table itself"),
        (Stream::Positions(places), Some(rows)) => {
            let shape = [places.len(), places.first().map_or(0, Vec::len), 2];
            let sign = |channel| if channel == 0 { 1.0 } else { -1.0 };
            let expected = Array::from_fn(&shape, |i| sign(i[2]) * f64::from(places[i[0]][i[1]]));
            assert!(*rows == expected, "{at}: {:?} instead of the rows of {places:?}", rows.data);
        }
    }
}

/// Protected tokens are neither removed nor merged: they come back bit by bit, and are among the positions.
pub fn protected_tokens_are_untouched<B: Backend>(subject: &Subject<B>) -> Result<()> {
    let machine = subject.machine()?;
    forall(RUNS, protected_pictures(), |picture| {
        let played = machine.try_out((subject.build)()?.as_mut(), &evaluations(&picture, 3));
        for fact in &played.facts {
            let channels = fact.input.shape[2];
            for (b, places) in fact.protected.iter().flatten().enumerate() {
                for &place in places {
                    let token = |array: &Array| -> Vec<f64> {
                        (0..channels).map(|channel| array.at(&[b, place, channel])).collect()
                    };
                    let same = token(&fact.restored) == token(&fact.input);
                    assert!(same, "{}: protected token {place} of row {b} comes back changed", fact.at);
                    let named = fact.positions.iter().all(|rows| rows[b].contains(&(place as u32)));
                    assert!(named, "{}: protected token {place} of row {b} is removed", fact.at);
                }
            }
        }
        played.failure.map_or(Ok(()), Err)
    });
    Ok(())
}

/// A reduction refuses tensors with other tokens, rows or axes than it was made for: with an error, not with a panic.
pub fn reductions_refuse_what_does_not_fit<B: Backend>(subject: &Subject<B>) -> Result<()> {
    subject.for_each_reduction(|fact| assert!(fact.took.is_empty(), "{}: {}", fact.at, fact.took.join("; ")))
}

/// The events of one evaluation of three blocks: 9 in each of 6 layers, one at every exit, two of every nest.
const EVENTS: usize = 6 * 9 + 3 + 6;

/// Those of the nests: before the blocks, which have 19, 28 and 10, and at the end.
const NESTS: [usize; 6] = [0, 20, 49, 60, 61, 62];

/// Those at which a layer begins.
const LAYERS: [usize; 6] = [1, 10, 21, 30, 39, 50];

/// An event of two evaluations; every kind that comes seldom is drawn often.
fn events() -> impl Strategy<Value = usize> {
    let first = prop_oneof![2 => 0..EVENTS, 1 => select(NESTS.to_vec()), 1 => select(LAYERS.to_vec())];
    (first, 0..2usize).prop_map(|(event, evaluation)| evaluation * EVENTS + event)
}

/// An event that tells of wrong tensors may be answered or refused, but never with a panic.
pub fn wrong_tensors_never_panic<B: Backend>(subject: &Subject<B>) -> Result<()> {
    let machine = subject.machine()?;
    forall(RUNS, (pictures(), events()), |(picture, event)| {
        for how in WrongTensor::ALL {
            let mut method = (subject.build)()?;
            let life = evaluations(&picture, 2);
            let result = catch_unwind(AssertUnwindSafe(|| {
                machine.mislead(method.as_mut(), &life, Tamper { event, how });
            }));
            if let Err(panic) = result {
                panic!("event {event} with {how:?} tensors: {}", panic_message(&*panic));
            }
        }
        Ok(())
    });
    Ok(())
}
