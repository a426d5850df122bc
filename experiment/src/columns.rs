//! Results as a Parquet file: one row per image, one column per field. Options and tokens are JSON.

use std::sync::Arc;

use parquet::data_type::{ByteArray, ByteArrayType, DoubleType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

use super::record::{Distances, Record};
use crate::failure::{Failure, Outcome};

/// The value of a column for a record.
enum Of {
    Text(fn(&Record) -> Option<String>),
    Whole(fn(&Record) -> Option<i64>),
    Number(fn(&Record) -> Option<f64>),
}

fn distance(record: &Record, of: fn(&Distances) -> f64) -> Option<f64> {
    record.distances.as_ref().map(of)
}

/// All columns with their names.
fn columns() -> Vec<(&'static str, Of)> {
    use Of::{Number, Text, Whole};
    vec![
        ("id", Text(|record| Some(record.id.clone()))),
        ("point", Text(|record| Some(record.point.clone()))),
        ("label", Text(|record| Some(record.label.clone()))),
        ("prompt_id", Text(|record| Some(record.prompt_id.clone()))),
        ("prompt", Text(|record| Some(record.prompt.clone()))),
        ("seed", Whole(|record| Some(record.seed.cast_signed()))),
        ("config_hash", Text(|record| Some(record.config_hash.clone()))),
        ("model", Text(|record| Some(record.settings.model.clone()))),
        ("method", Text(|record| Some(record.settings.method.clone()))),
        ("options", Text(|record| Some(record.settings.options.to_string()))),
        ("ratio", Number(|record| record.settings.options.get("ratio")?.as_f64())),
        ("steps", Whole(|record| i64::try_from(record.settings.steps).ok())),
        ("scheduler", Text(|record| Some(record.settings.scheduler.clone()))),
        ("guidance_scale", Number(|record| Some(record.settings.guidance_scale))),
        ("guidance_rescale", Number(|record| Some(record.settings.guidance_rescale))),
        ("negative_prompt", Text(|record| record.settings.negative_prompt.clone())),
        ("prompt_syntax", Text(|record| Some(record.settings.prompt_syntax.clone()))),
        ("clip_skip", Whole(|record| i64::try_from(record.settings.clip_skip).ok())),
        ("width", Whole(|record| i64::try_from(record.settings.width).ok())),
        ("height", Whole(|record| i64::try_from(record.settings.height).ok())),
        ("rng", Text(|record| Some(record.settings.rng.clone()))),
        ("rng_dtype", Text(|record| Some(record.settings.rng_dtype.clone()))),
        ("mean_tflop", Number(|record| Some(record.flops.mean_tflop))),
        ("whole_tflop", Number(|record| Some(record.flops.whole_tflop))),
        ("tokens", Text(|record| serde_json::to_string(&record.tokens).ok())),
        ("seconds_per_step", Number(|record| Some(record.times.seconds_per_step))),
        ("seconds", Number(|record| Some(record.times.seconds))),
        ("psnr", Number(|record| record.distances.as_ref()?.psnr)),
        ("ssim", Number(|record| distance(record, |distances| distances.ssim))),
        ("latent_l2", Number(|record| distance(record, |distances| distances.latent_l2))),
        ("latent_l2_relative", Number(|record| distance(record, |distances| distances.latent_l2_relative))),
        ("image", Text(|record| Some(record.image.clone()))),
        ("atedm", Text(|record| Some(record.provenance.atedm.clone()))),
        ("backend", Text(|record| Some(record.provenance.backend.clone()))),
        ("device", Text(|record| Some(record.provenance.device.clone()))),
        ("dtype", Text(|record| Some(record.provenance.dtype.clone()))),
        ("cpu", Text(|record| Some(record.provenance.cpu.clone()))),
        ("gpu", Text(|record| record.provenance.gpu.clone())),
    ]
}

/// The bytes of the file. Its rows are in the order of `records`.
pub fn parquet_bytes(records: &[&Record]) -> Outcome<Vec<u8>> {
    write(records).map_err(|error| Failure::run(format!("Parquet: {error}")))
}

fn write(records: &[&Record]) -> Result<Vec<u8>, ParquetError> {
    let columns = columns();
    let field = |(name, of): &(&str, Of)| match of {
        Of::Text(_) => format!("OPTIONAL BYTE_ARRAY {name} (UTF8);"),
        Of::Whole(_) => format!("OPTIONAL INT64 {name};"),
        Of::Number(_) => format!("OPTIONAL DOUBLE {name};"),
    };
    let schema = format!("message results {{ {} }}", columns.iter().map(field).collect::<String>());
    let (schema, properties) =
        (Arc::new(parse_message_type(&schema)?), Arc::new(WriterProperties::builder().build()));
    let mut bytes = Vec::new();
    let mut writer = SerializedFileWriter::new(&mut bytes, schema, properties)?;
    let mut rows = writer.next_row_group()?;
    for (_, of) in &columns {
        let Some(mut column) = rows.next_column()? else { break };
        match of {
            Of::Text(of) => {
                let text = |record: &&Record| of(record).map(|text| ByteArray::from(text.into_bytes()));
                let (values, there) = present(records.iter().map(text));
                column.typed::<ByteArrayType>().write_batch(&values, Some(&there), None)?;
            }
            Of::Whole(of) => {
                let (values, there) = present(records.iter().map(|record| of(record)));
                column.typed::<Int64Type>().write_batch(&values, Some(&there), None)?;
            }
            Of::Number(of) => {
                let (values, there) = present(records.iter().map(|record| of(record)));
                column.typed::<DoubleType>().write_batch(&values, Some(&there), None)?;
            }
        }
        column.close()?;
    }
    rows.close()?;
    writer.close()?;
    Ok(bytes)
}

/// The values that exist. Also, for every row, 1 if its value exists (the format's definition level).
fn present<V>(values: impl Iterator<Item = Option<V>>) -> (Vec<V>, Vec<i16>) {
    let all: Vec<Option<V>> = values.collect();
    let there = all.iter().map(|value| i16::from(value.is_some())).collect();
    (all.into_iter().flatten().collect(), there)
}
