//! Steps of several runs at once.

use omni_core::Result;

/// Computes the runs that `check` accepts in one batch; each rejected run gets its own error, and its state stays untouched.
///
/// `compute` returns one output per run, in order; it is not called without any run.
pub fn admitted<Run, Output>(
    runs: Vec<Run>,
    check: impl Fn(&Run) -> Result<()>,
    compute: impl FnOnce(Vec<Run>) -> Vec<Output>,
) -> Vec<Result<Output>> {
    let (mut checked, mut passed) = (Vec::with_capacity(runs.len()), Vec::with_capacity(runs.len()));
    for run in runs {
        let result = check(&run);
        if result.is_ok() {
            passed.push(run);
        }
        checked.push(result);
    }
    let mut outputs = if passed.is_empty() { Vec::new() } else { compute(passed) }.into_iter();
    let each = checked.into_iter();
    each.map(|checked| checked.map(|()| outputs.next().expect("one output for each run that passed"))).collect()
}

/// Index of each run's last row, from the numbers of rows of consecutive runs.
pub fn last_rows(lengths: &[usize]) -> Vec<usize> {
    let ends = lengths.iter().scan(0, |end, length| {
        *end += length;
        Some(*end - 1)
    });
    ends.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use omni_core::Error;

    #[test]
    fn runs_that_are_refused_leave_the_others_their_outputs() {
        let check = |run: &i32| if run % 2 == 0 { Ok(()) } else { Err(Error::Request(run.to_string())) };
        let each = admitted(vec![1, 2, 3, 4], check, |runs| runs.iter().map(|run| run * 10).collect());
        let each: Vec<_> = each.into_iter().map(|each| each.map_err(|error| error.to_string())).collect();
        assert!(each[0].as_ref().is_err_and(|error| error.contains('1')));
        assert!(each[2].as_ref().is_err_and(|error| error.contains('3')));
        assert_eq!((&each[1], &each[3]), (&Ok(20), &Ok(40)));
        let none = admitted(vec![1], check, |_| -> Vec<i32> { panic!("nothing passed") });
        assert!(none[0].is_err());
    }
}
