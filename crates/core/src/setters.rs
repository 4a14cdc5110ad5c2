/// Writes the setters of an options struct in builder style.
///
/// `field: T` takes a `T` as it is; `field: T => value` stores `value`, an expression in which `field` is the argument. A field that is
/// neither listed nor named after `without` does not compile.
#[doc(hidden)]
#[macro_export]
macro_rules! setters {
    ($options:ident { $($field:ident: $argument:ty $(=> $value:expr)?),* $(,)? } $(without $($other:ident),*)?) => {
        impl $options {$(
            #[doc = concat!("Sets [`", stringify!($field), "`](field@Self::", stringify!($field), ").")]
            pub fn $field(mut self, $field: $argument) -> Self {
                self.$field = $crate::setters!(@value $field $($value)?);
                self
            }
        )*}

        const _: fn($options) = |$options { $($field: _,)* $($($other: _,)*)? }| {};
    };
    (@value $field:ident) => { $field };
    (@value $field:ident $value:expr) => { $value };
}
