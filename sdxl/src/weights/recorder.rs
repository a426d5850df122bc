//! A source that records the requests to another source. It finds the list of a model's tensors.

use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;

use atedm_core::{Result, WeightSource};

/// Names and shapes, in the order in which a model requested them.
pub type TensorList = Rc<RefCell<Vec<(String, Vec<usize>)>>>;

/// Passes every request on to `source` and records it.
///
/// Load a model through it to get the list of the tensors that its checkpoint must hold.
#[derive(Debug)]
pub struct Recorder<S> {
    source: S,
    list: TensorList,
}

impl<S> Recorder<S> {
    /// A recorder in front of `source`, and the list that it writes to.
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
