//! Distributions of times on their way out of the process: in results, and between processes. An
//! HdrHistogram in its V2 encoding, as base64, which other tools read as well.

use crate::board::Histograms;
use crate::result::Latency;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Deserializer, Serializer, V2Serializer};

/// The V2 format's cookie, payload length, normalizing index, precision, two bounds and ratio.
const V2_HEAD: usize = 40;

/// The text of a histogram.
pub fn encode(histogram: &Histogram<u64>) -> String {
    let mut bytes = Vec::new();
    // Writing to memory does not fail, and the bounds are far from what the format holds.
    V2Serializer::new().serialize(histogram, &mut bytes).expect("a histogram of ours has a V2 form");
    STANDARD.encode(bytes)
}

/// The histogram of a text.
///
/// # Errors
/// In words, if it is none.
pub fn decode(text: &str) -> Result<Histogram<u64>, String> {
    let bytes = STANDARD.decode(text).map_err(|error| format!("not base64: {error}"))?;
    // The length is believed by the decoder, which allocates that much.
    let length = bytes.get(4..).and_then(|bytes| bytes.first_chunk()).map(|bytes| u32::from_be_bytes(*bytes));
    if length.is_none_or(|length| bytes.len().saturating_sub(V2_HEAD) < length as usize) {
        return Err("not an HdrHistogram in the V2 encoding".to_owned());
    }
    Deserializer::new()
        .deserialize(&mut bytes.as_slice())
        .map_err(|error| format!("not an HdrHistogram: {error}"))
}

impl Latency {
    /// Of recorded nanoseconds; all zero if there are none.
    pub fn of(histogram: Option<&Histogram<u64>>) -> Self {
        let Some(histogram) = histogram.filter(|histogram| !histogram.is_empty()) else {
            return Self::default();
        };
        let at = |quantile| histogram.value_at_quantile(quantile);
        Self {
            count: histogram.len(),
            min_ns: histogram.min(),
            mean_ns: histogram.mean(),
            p50_ns: at(0.5),
            p90_ns: at(0.9),
            p99_ns: at(0.99),
            p999_ns: at(0.999),
            p9999_ns: at(0.9999),
            max_ns: histogram.max(),
            hdr: encode(histogram),
        }
    }
}

/// [`Histograms`] as a list of texts.
pub mod packed {
    use super::{Histograms, decode, encode};
    use crate::board::merge;
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    /// See the module.
    ///
    /// # Errors
    /// The serializer's.
    pub fn serialize<S: Serializer>(times: &Histograms, serializer: S) -> Result<S::Ok, S::Error> {
        times.each_ref().map(|one| one.as_deref().map(encode)).serialize(serializer)
    }

    /// See the module.
    ///
    /// # Errors
    /// The deserializer's, and if a text is no histogram.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Histograms, D::Error> {
        let texts = <[Option<String>; 6]>::deserialize(deserializer)?;
        let mut times = Histograms::default();
        for (place, text) in texts.iter().enumerate() {
            if let Some(text) = text {
                let mut one = Histograms::default();
                one[place] = Some(Box::new(decode(text).map_err(D::Error::custom)?));
                // Into one of the bounds that all have here.
                merge(&mut times, &one).map_err(D::Error::custom)?;
            }
        }
        Ok(times)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::board::new_histogram;

    #[test]
    fn histograms_survive_the_way() {
        let mut histogram = new_histogram();
        for value in [1, 77, 1_000_000, 600_000_000_000] {
            histogram.record(value).unwrap();
        }
        let latency = Latency::of(Some(&histogram));
        assert_eq!((latency.count, latency.min_ns), (4, 1));
        assert_eq!(decode(&latency.hdr).unwrap(), histogram);
        assert!(decode("%").unwrap_err().contains("base64"));
        assert!(decode("AAAA").unwrap_err().contains("HdrHistogram"));
        assert_eq!(Latency::of(None).count, 0);
    }
}
