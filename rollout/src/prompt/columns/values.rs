//! Values of columns as JSON. What has no form there is refused by its name.

use std::fmt::{Debug, Display};

use arrow_array::cast::AsArray;
use arrow_array::types::{
    ArrowPrimitiveType, ArrowTemporalType, Date32Type, Date64Type, Decimal32Type, Decimal64Type,
    Decimal128Type, Decimal256Type, DecimalType, Float16Type, Float32Type, Float64Type, Int8Type, Int16Type,
    Int32Type, Int64Type, Time32MillisecondType, Time32SecondType, Time64MicrosecondType,
    Time64NanosecondType, TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType,
    TimestampSecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow_array::{Array, ArrayRef, PrimitiveArray, RecordBatch};
use arrow_schema::{DataType, Fields, Schema, TimeUnit};
use serde_json::{Map, Number, Value};

/// How deep types may lie in each other; JSON that is read has no more.
const DEPTH_MAX: usize = 64;

/// Refuses a schema with a type that has no form in JSON.
pub(super) fn check_schema(schema: &Schema) -> Result<(), String> {
    check_fields(schema.fields(), "", 0)
}

fn check_fields(fields: &Fields, above: &str, depth: usize) -> Result<(), String> {
    for (place, field) in fields.iter().enumerate() {
        let name = format!("{above}{}", field.name());
        if fields[..place].iter().any(|other| other.name() == field.name()) {
            return Err(format!("the field `{name}` stands twice"));
        }
        check_type(field.data_type(), &name, depth)?;
    }
    Ok(())
}

fn check_type(kind: &DataType, name: &str, depth: usize) -> Result<(), String> {
    if depth > DEPTH_MAX {
        return Err(format!(
            "the field `{name}` has types that lie in each other more than {DEPTH_MAX} deep"
        ));
    }
    let refused = |why: &str| {
        Err(format!(
            "the field `{name}` has the type {kind}, {why}; leave the column out, or store it otherwise"
        ))
    };
    match kind {
        DataType::Duration(_) | DataType::Interval(_) => refused("which has no form in JSON"),
        DataType::Union(..) | DataType::RunEndEncoded(..) => refused("which is not read"),
        DataType::Struct(fields) => check_fields(fields, &format!("{name}."), depth + 1),
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::FixedSizeList(item, _)
        | DataType::ListView(item)
        | DataType::LargeListView(item) => check_type(item.data_type(), &format!("{name}[]"), depth + 1),
        DataType::Dictionary(_, item) => check_type(item, name, depth + 1),
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(fields) if fields.len() == 2 => match fields[0].data_type() {
                DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
                    check_type(fields[1].data_type(), &format!("{name}.*"), depth + 1)
                }
                _ => refused("whose keys are no texts"),
            },
            _ => refused("whose entries are no pairs"),
        },
        _ => Ok(()),
    }
}

/// A row as the text of a JSON object.
///
/// # Errors
/// Names the field whose value has no form in JSON.
pub(super) fn row(batch: &RecordBatch, row: usize) -> Result<String, String> {
    let schema = batch.schema();
    let fields = fields(schema.fields(), batch.columns(), row);
    fields.map(|fields| Value::Object(fields).to_string()).map_err(|fault| {
        let Fault { path, reason } = fault;
        format!("`{path}` {reason}")
    })
}

/// A value without a form in JSON, and where it stands in its row.
struct Fault {
    path: String,
    reason: String,
}

impl Fault {
    fn new(reason: impl Into<String>) -> Self {
        Self { path: String::new(), reason: reason.into() }
    }

    fn within(self, name: &str) -> Self {
        let point = if self.path.is_empty() || self.path.starts_with('[') { "" } else { "." };
        Self { path: format!("{name}{point}{}", self.path), ..self }
    }
}

fn fields(names: &Fields, columns: &[ArrayRef], row: usize) -> Result<Map<String, Value>, Fault> {
    let mut fields = Map::new();
    for (field, column) in names.iter().zip(columns) {
        let value = value(column.as_ref(), row).map_err(|fault| fault.within(field.name()))?;
        fields.insert(field.name().clone(), value);
    }
    Ok(fields)
}

fn value(array: &dyn Array, row: usize) -> Result<Value, Fault> {
    if array.is_null(row) {
        return Ok(Value::Null);
    }
    match array.data_type() {
        DataType::Null => Ok(Value::Null),
        DataType::Boolean => Ok(Value::Bool(array.as_boolean().value(row))),
        kind if kind.is_integer() => integer(array, row),
        DataType::Float16 => float(f32::from(array.as_primitive::<Float16Type>().value(row))),
        DataType::Float32 => float(array.as_primitive::<Float32Type>().value(row)),
        DataType::Float64 => float(array.as_primitive::<Float64Type>().value(row)),
        DataType::Decimal32(..) => Ok(decimal::<Decimal32Type>(array, row)),
        DataType::Decimal64(..) => Ok(decimal::<Decimal64Type>(array, row)),
        DataType::Decimal128(..) => Ok(decimal::<Decimal128Type>(array, row)),
        DataType::Decimal256(..) => Ok(decimal::<Decimal256Type>(array, row)),
        DataType::Utf8 => Ok(Value::from(array.as_string::<i32>().value(row))),
        DataType::LargeUtf8 => Ok(Value::from(array.as_string::<i64>().value(row))),
        DataType::Utf8View => Ok(Value::from(array.as_string_view().value(row))),
        DataType::Binary => bytes(array.as_binary::<i32>().value(row)),
        DataType::LargeBinary => bytes(array.as_binary::<i64>().value(row)),
        DataType::BinaryView => bytes(array.as_binary_view().value(row)),
        DataType::FixedSizeBinary(_) => bytes(array.as_fixed_size_binary().value(row)),
        DataType::Struct(names) => fields(names, array.as_struct().columns(), row).map(Value::Object),
        DataType::List(_) => list(array.as_list::<i32>().value(row).as_ref()),
        DataType::LargeList(_) => list(array.as_list::<i64>().value(row).as_ref()),
        DataType::ListView(_) => list(array.as_list_view::<i32>().value(row).as_ref()),
        DataType::LargeListView(_) => list(array.as_list_view::<i64>().value(row).as_ref()),
        DataType::FixedSizeList(..) => list(array.as_fixed_size_list().value(row).as_ref()),
        DataType::Map(..) => map(array, row),
        DataType::Dictionary(..) => {
            let dictionary = array.as_any_dictionary();
            let key = value(dictionary.keys(), row)?.as_u64().and_then(|key| usize::try_from(key).ok());
            match key.filter(|key| *key < dictionary.values().len()) {
                Some(key) => value(dictionary.values().as_ref(), key),
                None => Err(Fault::new("has a key that its dictionary lacks")),
            }
        }
        kind if kind.is_temporal() => time(array, row),
        kind => Err(Fault::new(format!("has the type {kind}, which is not read"))),
    }
}

fn list(items: &dyn Array) -> Result<Value, Fault> {
    let one = |place| value(items, place).map_err(|fault| fault.within(&format!("[{place}]")));
    (0..items.len()).map(one).collect::<Result<Vec<_>, _>>().map(Value::Array)
}

fn map(array: &dyn Array, row: usize) -> Result<Value, Fault> {
    let entries = array.as_map().value(row);
    let mut fields = Map::new();
    for place in 0..entries.len() {
        let Value::String(key) = value(entries.column(0).as_ref(), place)? else {
            return Err(Fault::new("has a key that is no text"));
        };
        let entry = value(entries.column(1).as_ref(), place).map_err(|fault| fault.within(&key))?;
        if fields.contains_key(&key) {
            return Err(Fault::new(format!("has the key `{key}` twice")));
        }
        fields.insert(key, entry);
    }
    Ok(Value::Object(fields))
}

fn bytes(bytes: &[u8]) -> Result<Value, Fault> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(Value::from(text)),
        Err(_) => {
            Err(Fault::new("holds bytes that are no UTF-8 text: leave the column out, or store it as text"))
        }
    }
}

/// A number by its digits, all of which are kept.
fn number(digits: impl Display) -> Value {
    Value::Number(Number::from_string_unchecked(digits.to_string()))
}

fn integer(array: &dyn Array, row: usize) -> Result<Value, Fault> {
    fn digits<T: ArrowPrimitiveType>(array: &dyn Array, row: usize) -> Value
    where
        T::Native: Display,
    {
        number(array.as_primitive::<T>().value(row))
    }
    Ok(match array.data_type() {
        DataType::Int8 => digits::<Int8Type>(array, row),
        DataType::Int16 => digits::<Int16Type>(array, row),
        DataType::Int32 => digits::<Int32Type>(array, row),
        DataType::Int64 => digits::<Int64Type>(array, row),
        DataType::UInt8 => digits::<UInt8Type>(array, row),
        DataType::UInt16 => digits::<UInt16Type>(array, row),
        DataType::UInt32 => digits::<UInt32Type>(array, row),
        _ => digits::<UInt64Type>(array, row),
    })
}

/// The shortest digits that are this number in its own precision.
fn float<T: Copy + Debug + Into<f64>>(value: T) -> Result<Value, Fault> {
    match value.into().is_finite() {
        true => Ok(number(format!("{value:?}"))),
        false => Err(Fault::new(format!("is {value:?}, which is no number of JSON"))),
    }
}

fn decimal<T: DecimalType>(array: &dyn Array, row: usize) -> Value {
    number(array.as_primitive::<T>().value_as_string(row))
}

/// Days and times as texts of ISO 8601: `2024-07-26`, `2024-07-26T12:30:00`, with a `Z` where the column has a time zone,
/// since such values count from UTC.
fn time(array: &dyn Array, row: usize) -> Result<Value, Fault> {
    let written = match array.data_type() {
        DataType::Date32 => primitive::<Date32Type>(array).value_as_date(row).map(|day| day.to_string()),
        DataType::Date64 => primitive::<Date64Type>(array).value_as_date(row).map(|day| day.to_string()),
        DataType::Time32(TimeUnit::Second) => clock::<Time32SecondType>(array, row),
        DataType::Time32(_) => clock::<Time32MillisecondType>(array, row),
        DataType::Time64(TimeUnit::Microsecond) => clock::<Time64MicrosecondType>(array, row),
        DataType::Time64(_) => clock::<Time64NanosecondType>(array, row),
        DataType::Timestamp(unit, zone) => {
            let moment = match unit {
                TimeUnit::Second => moment::<TimestampSecondType>(array, row),
                TimeUnit::Millisecond => moment::<TimestampMillisecondType>(array, row),
                TimeUnit::Microsecond => moment::<TimestampMicrosecondType>(array, row),
                TimeUnit::Nanosecond => moment::<TimestampNanosecondType>(array, row),
            };
            moment.map(|moment| if zone.is_some() { format!("{moment}Z") } else { moment })
        }
        kind => return Err(Fault::new(format!("has the type {kind}, which is not read"))),
    };
    written.map(Value::String).ok_or_else(|| Fault::new("is a time outside of what a calendar has"))
}

fn primitive<T: ArrowPrimitiveType>(array: &dyn Array) -> &PrimitiveArray<T> {
    array.as_primitive::<T>()
}

fn clock<T: ArrowTemporalType>(array: &dyn Array, row: usize) -> Option<String>
where
    i64: From<T::Native>,
{
    primitive::<T>(array).value_as_time(row).map(|time| time.to_string())
}

fn moment<T: ArrowTemporalType>(array: &dyn Array, row: usize) -> Option<String>
where
    i64: From<T::Native>,
{
    // The debug form of a date with its time is that of ISO 8601.
    primitive::<T>(array).value_as_datetime(row).map(|moment| format!("{moment:?}"))
}
