//! Checks that several methods of this crate share.

use atedm_core::plugin::{BuildContext, NestId};
use atedm_core::{AttentionOps, Error, Result, Tensor};

/// Checks that there are no kept sets to replay, because these methods remove no tokens.
///
/// # Errors
/// [`Error::Config`] naming `masks`.
pub(crate) fn no_replay<T: AttentionOps>(context: &BuildContext<T>) -> Result<()> {
    match context.replay {
        Some(_) => Err(Error::config(
            "masks",
            "kept sets can be replayed for AT-EDM only: this method keeps every token",
        )),
        None => Ok(()),
    }
}

/// Checks that the model has reported the nest that a method works on.
///
/// # Errors
/// [`Error::Config`] naming the option that selects the nest.
pub(crate) fn expect_heard(heard: bool, field: &str, nest: NestId) -> Result<()> {
    match heard {
        true => Ok(()),
        false => Err(Error::config(field, format!("the model tells of no {nest}"))),
    }
}

/// The shape of a nest's input at the step that stored the nest's output, without the rows.
#[derive(Debug, Default)]
pub(crate) struct InputSize(Vec<usize>);

impl InputSize {
    /// The nest runs on `hidden` `[rows, ..]`, and its output will be stored.
    pub(crate) fn store<T: Tensor>(&mut self, hidden: &T) {
        self.0 = hidden.shape().into_iter().skip(1).collect();
    }

    /// Checks that a stored output fits an input. The size of a picture must not change within a run.
    ///
    /// # Errors
    /// [`Error::Shape`] with both sizes.
    pub(crate) fn expect<T: Tensor>(&self, hidden: &T) -> Result<()> {
        let shape = hidden.shape();
        match shape.get(1..) == Some(&self.0[..]) {
            true => Ok(()),
            false => {
                let expected = format!("one size within a run: {:?} after the rows", self.0);
                Err(Error::shape("a nest whose output is used again", expected, shape))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use atedm_core::plugin::{BuildContext, NestId, NestSite, Registry, Row, Run, Step};
    use atedm_core::reference::{NdDevice, NdTensor};
    use atedm_core::{DType, Tensor};
    use serde_json::json;

    #[test]
    fn another_size_within_a_run_is_an_error() {
        let mut registry = Registry::<NdTensor>::with_builtins();
        crate::register(&mut registry).unwrap();
        let rows = Row::singles(1);
        let of = |side: usize| NdTensor::full(1.0, &[1, 2, side, side], DType::F32, &NdDevice).unwrap();
        let forecast = json!({"cache_interval": 3, "disable_cache_before_step": 1});
        for (name, options, nest) in
            [("deepcache", json!({}), NestId(1)), ("step-forecast", forecast, NestId::EVALUATION)]
        {
            let mut method = registry.build(name, &options, &BuildContext::default()).unwrap();
            let mut enter = |index: usize, side: usize| {
                let step = Step { index, total: 9, evaluation: index, sigma: 1.0, timestep: 500.0 };
                let site = NestSite { nest, step, rows: &rows };
                if index == 0 {
                    method.begin_run(&Run::new(9, 0, &rows)).unwrap();
                }
                method.begin_step(&step, &rows).unwrap();
                let given = method.enter_nest(&site, &of(side));
                if matches!(given, Ok(None)) {
                    method.leave_nest(&site, &of(side)).unwrap();
                }
                given
            };
            assert!(enter(0, 8).unwrap().is_none());
            assert_eq!(enter(1, 8).unwrap().map(|output| output.shape()), Some(vec![1, 2, 8, 8]), "{name}");
            let message = enter(4, 12).unwrap_err().to_string();
            assert!(
                message.contains("one size within a run: [2, 8, 8]") && message.contains("12"),
                "{message}"
            );
            // another run may have another size
            assert!(enter(0, 12).unwrap().is_none());
            assert!(enter(1, 12).unwrap().is_some());
        }
    }
}
