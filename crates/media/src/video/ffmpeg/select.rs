//! Selection of the frames that ffmpeg passes on.

/// A run of consecutive frames: the first and the last.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Run(usize, usize);

impl Run {
    pub(super) fn len(&self) -> usize {
        self.1 - self.0 + 1
    }
}

/// Groups ascending indices into runs.
pub(super) fn runs(wanted: &[usize]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for &index in wanted {
        match runs.last_mut() {
            Some(Run(_, last)) if *last + 1 == index => *last = index,
            _ => runs.push(Run(index, index)),
        }
    }
    runs
}

/// An expression in the frame number `n` that is true for the runs; a binary search, so that each frame is looked up fast.
pub(super) fn expression(runs: &[Run]) -> String {
    match runs {
        [] => "0".into(),
        [Run(first, last)] if first == last => format!("eq(n,{first})"),
        [Run(first, last)] => format!("between(n,{first},{last})"),
        _ => {
            let (left, right) = runs.split_at(runs.len() / 2);
            format!("if(lt(n,{}),{},{})", right[0].0, expression(left), expression(right))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_selected_by_runs() {
        let runs = runs(&[0, 1, 2, 5, 9, 10]);
        assert_eq!(runs, [Run(0, 2), Run(5, 5), Run(9, 10)]);
        assert_eq!(runs.iter().map(Run::len).sum::<usize>(), 6);
        assert_eq!(expression(&runs), "if(lt(n,5),between(n,0,2),if(lt(n,9),eq(n,5),between(n,9,10)))");
        assert_eq!(expression(&[]), "0");
    }
}
