//! A source that notes what is asked of another one: how the list of a model's tensors is found.

use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;

use atedm_core::{Result, WeightSource};

/// Names and shapes, in the order in which a model asked for them.
pub type TensorList = Rc<RefCell<Vec<(String, Vec<usize>)>>>;

/// Passes every request on to `source` and notes it.
///
/// Loading a model through it lists the tensors that a checkpoint of that model must hold.
#[derive(Debug)]
pub struct Recorder<S> {
    source: S,
    list: TensorList,
}

impl<S> Recorder<S> {
    /// A recorder before `source`, and the list it writes to.
    pub fn new(source: S) -> (Self, TensorList) {
        let list = TensorList::default();
        (Self { source, list: list.clone() }, list)
    }
}

impl<T, S: WeightSource<T>> WeightSource<T> for Recorder<S> {
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<T> {
        self.list.borrow_mut().push((name.to_string(), shape.to_vec()));
        self.source.tensor(name, shape)
    }

    fn contains(&self, name: &str) -> bool {
        self.source.contains(name)
    }

    fn shape_of(&self, name: &str) -> Option<Vec<usize>> {
        self.source.shape_of(name)
    }

    fn origin(&self) -> PathBuf {
        self.source.origin()
    }
}
