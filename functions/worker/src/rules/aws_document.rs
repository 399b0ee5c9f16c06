//! Documents that AWS keeps: objects in S3 and parameters in Parameter Store, read by HTTPS requests with a signature
//! ("AWS Signature Version 4 for API requests").

use std::error::Error;
use std::time::SystemTime;

use aws_config::SdkConfig;
use aws_credential_types::provider::ProvideCredentials;
use aws_sigv4::http_request::{
    PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SigningSettings, UriPathNormalizationMode,
    sign,
};
use aws_sigv4::sign::v4;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use pushlark_fetch::Fetch;
use pushlark_http_client::Tls;
use reqwest::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use reqwest::{Method, Request, StatusCode, Url};
use serde::Deserialize;
use serde_json::json;

use super::source::UnreadRulesError;

/// The bytes of a key that are percent-encoded in a path: all but the unreserved characters of RFC 3986, and `/`.
const KEY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');

/// A document in AWS.
pub struct AwsDocument {
    name: DocumentName,
    url: Url,
    region: String,
    aws: SdkConfig,
    fetch: Fetch,
}

enum DocumentName {
    /// The URL `s3://bucket/key`.
    Object(String),
    /// The ARN of a parameter.
    Parameter(String),
}

/// A place that is not a document in AWS. The operator must correct it.
#[derive(Debug, thiserror::Error)]
pub enum InvalidPlaceError {
    /// A URL of the scheme `s3` has no bucket or no key.
    #[error("expected s3://bucket/key")]
    Object,
    /// The ARN names another resource.
    #[error(
        "expected the ARN of a parameter, such as arn:aws:ssm:eu-west-1:123456789012:parameter/rules, or of a secret"
    )]
    Arn,
    /// The URL has the scheme `http` or `https`.
    #[error("a URL must be s3://bucket/key")]
    Http,
    /// The place is in the region of the function, which is not known.
    #[error("there is no AWS region: set AWS_REGION")]
    NoRegion,
}

type BoxError = Box<dyn Error + Send + Sync>;

impl AwsDocument {
    /// Returns the object at `s3://bucket/key`, in the region of the function. `aws` has the endpoint of S3, if it is not
    /// that of AWS.
    pub fn object(s3_url: &str, aws: SdkConfig, tls: Tls) -> Result<Self, InvalidPlaceError> {
        let path = s3_url.strip_prefix("s3://").ok_or(InvalidPlaceError::Object)?;
        let (bucket, key) = path.split_once('/').ok_or(InvalidPlaceError::Object)?;
        let is_bucket = !bucket.is_empty()
            && bucket.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.'));
        if !is_bucket || key.is_empty() {
            return Err(InvalidPlaceError::Object);
        }
        let region = aws.region().ok_or(InvalidPlaceError::NoRegion)?.to_string();
        let key = utf8_percent_encode(key, KEY);
        let url = match aws.endpoint_url() {
            Some(endpoint) => format!("{}/{bucket}/{key}", endpoint.trim_end_matches('/')),
            // The certificate of S3 is not valid for a host name with further dots.
            None if bucket.contains('.') => format!("https://s3.{}/{bucket}/{key}", domain(&region)),
            None => format!("https://{bucket}.s3.{}/{key}", domain(&region)),
        };
        let url = Url::parse(&url).map_err(|_| InvalidPlaceError::Object)?;
        // A key such as `a/../b` would name another object.
        if !url.path().ends_with(&format!("/{key}")) {
            return Err(InvalidPlaceError::Object);
        }
        Ok(Self { name: DocumentName::Object(s3_url.into()), url, region, aws, fetch: Fetch::new(tls) })
    }

    /// Returns the parameter with this ARN. `aws` has the endpoint of Systems Manager, if it is not that of AWS.
    pub fn parameter(arn: &str, aws: SdkConfig, tls: Tls) -> Result<Self, InvalidPlaceError> {
        let parts: Vec<_> = arn.splitn(6, ':').collect();
        let &["arn", _, "ssm", region, _, resource] = &parts[..] else { return Err(InvalidPlaceError::Arn) };
        let is_region = region.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') && !region.is_empty();
        if !is_region || resource.strip_prefix("parameter/").is_none_or(str::is_empty) {
            return Err(InvalidPlaceError::Arn);
        }
        let url = aws.endpoint_url().map_or_else(|| format!("https://ssm.{}/", domain(region)), str::to_owned);
        let url = Url::parse(&url).map_err(|_| InvalidPlaceError::Arn)?;
        Ok(Self { name: DocumentName::Parameter(arn.into()), url, region: region.into(), aws, fetch: Fetch::new(tls) })
    }

    /// Reads the text of the document.
    pub async fn read(&self) -> Result<String, UnreadRulesError> {
        let result = match &self.name {
            DocumentName::Object(_) => self.read_object().await,
            DocumentName::Parameter(arn) => self.read_parameter(arn).await,
        };
        result.map_err(|source| UnreadRulesError::Document { place: self.name.to_string(), source })
    }

    /// Calls `GetObject` of S3.
    async fn read_object(&self) -> Result<String, BoxError> {
        let document = self.send("s3", Request::new(Method::GET, self.url.clone()), Vec::new()).await?;
        String::from_utf8(document).map_err(|_| "it is not a text in UTF-8".into())
    }

    /// Calls `GetParameter` of Systems Manager.
    async fn read_parameter(&self, arn: &str) -> Result<String, BoxError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct GetParameterResponse {
            parameter: Parameter,
        }

        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Parameter {
            value: String,
        }

        let mut request = Request::new(Method::POST, self.url.clone());
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-amz-json-1.1"));
        headers.insert("x-amz-target", HeaderValue::from_static("AmazonSSM.GetParameter"));
        // A parameter of another account can be named by its ARN only.
        let body = json!({"Name": arn, "WithDecryption": true}).to_string().into_bytes();
        let response = self.send("ssm", request, body).await?;
        let GetParameterResponse { parameter } =
            serde_json::from_slice(&response).map_err(|_| "the server did not respond with a parameter")?;
        Ok(parameter.value)
    }

    /// Sends a request with a signature for `service`, and returns the body of a response of status 200.
    async fn send(&self, service: &str, mut request: Request, body: Vec<u8>) -> Result<Vec<u8>, BoxError> {
        self.sign(service, &mut request, &body).await?;
        *request.body_mut() = Some(body.into());
        match self.fetch.send(request).await? {
            (StatusCode::OK, document) => Ok(document),
            (status, body) => {
                let code = error_code(&body).map(|code| format!(" ({code})")).unwrap_or_default();
                Err(format!("the server responded with {status}{code}").into())
            }
        }
    }

    /// Adds the headers of a signature to a request with this body.
    async fn sign(&self, service: &str, request: &mut Request, body: &[u8]) -> Result<(), BoxError> {
        let provider = self.aws.credentials_provider().ok_or("there are no AWS credentials")?;
        let identity = provider.provide_credentials().await?.into();
        let mut settings = SigningSettings::default();
        // S3 takes the path as it is, and needs the hash of the body in a header. Other services accept both.
        settings.percent_encoding_mode = PercentEncodingMode::Single;
        settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
        settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
        let parameters = v4::SigningParams::builder()
            .identity(&identity)
            .region(&self.region)
            .name(service)
            .time(SystemTime::now())
            .settings(settings)
            .build()?
            .into();
        let headers = request.headers().iter().filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)));
        let signable = SignableRequest::new(
            request.method().as_str(),
            request.url().as_str(),
            headers,
            SignableBody::Bytes(body),
        )?;
        let (signature, _) = sign(signable, &parameters)?.into_parts();
        for (name, value) in signature.headers() {
            let mut value = HeaderValue::from_str(value)?;
            value.set_sensitive(true);
            request.headers_mut().insert(HeaderName::try_from(name)?, value);
        }
        Ok(())
    }
}

impl std::fmt::Display for DocumentName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Object(url) => write!(f, "object {url}"),
            Self::Parameter(arn) => write!(f, "parameter {arn}"),
        }
    }
}

/// Returns the domain of the services in a region ("AWS service endpoints").
fn domain(region: &str) -> String {
    let suffix = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
    format!("{region}.{suffix}")
}

/// Returns the code of an error, such as `AccessDenied`: the element `Code` of S3's XML, or the field `__type` of JSON.
fn error_code(body: &[u8]) -> Option<&str> {
    let body = str::from_utf8(body).ok()?;
    let (_, code) = body.split_once("<Code>").or_else(|| body.split_once(r#""__type":"#))?;
    let code = code.trim_start_matches([' ', '"']).split(['<', '"']).next()?;
    let code = code.rsplit('#').next()?;
    Some(code).filter(|code| !code.is_empty() && code.bytes().all(|b| b.is_ascii_alphanumeric()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use aws_config::Region;

    use super::*;

    fn aws(region: &'static str) -> SdkConfig {
        SdkConfig::builder().region(Region::from_static(region)).build()
    }

    #[test]
    fn an_object_has_the_url_of_its_bucket() {
        for (place, region, url) in [
            ("s3://rules/a.toml", "eu-west-1", "https://rules.s3.eu-west-1.amazonaws.com/a.toml"),
            (
                "s3://rules.example.com/a.toml",
                "us-east-1",
                "https://s3.us-east-1.amazonaws.com/rules.example.com/a.toml",
            ),
            ("s3://rules/a/b c+ä", "cn-north-1", "https://rules.s3.cn-north-1.amazonaws.com.cn/a/b%20c%2B%C3%A4"),
        ] {
            assert_eq!(AwsDocument::object(place, aws(region), Tls::default()).unwrap().url.as_str(), url);
        }
    }

    #[test]
    fn a_parameter_has_the_url_of_the_region_in_its_arn() {
        let arn = "arn:aws:ssm:eu-west-1:123456789012:parameter/push/rules:3";
        let parameter = AwsDocument::parameter(arn, aws("us-east-1"), Tls::default()).unwrap();
        assert_eq!(parameter.url.as_str(), "https://ssm.eu-west-1.amazonaws.com/");
    }

    #[test]
    fn a_place_that_is_no_document_is_refused() {
        for place in
            ["s3:", "s3://", "s3://rules", "s3://rules/", "s3:///a", "s3://Rules/a", "s3://r@s/a", "s3://r/a/../b"]
        {
            let refused = AwsDocument::object(place, aws("eu-west-1"), Tls::default()).err().unwrap();
            assert_eq!(refused.to_string(), "expected s3://bucket/key", "{place}");
        }
        let unknown_region =
            AwsDocument::object("s3://rules/a", SdkConfig::builder().build(), Tls::default()).err().unwrap();
        assert_eq!(unknown_region.to_string(), "there is no AWS region: set AWS_REGION");
        for place in [
            "arn:",
            "arn:aws:s3:::rules/a",
            "arn:aws:ssm:eu-west-1:123456789012:parameter/",
            "arn:aws:ssm::123456789012:parameter/a",
            "arn:aws:ssm:evil.example/:123456789012:parameter/a",
            "arn:aws:ssm:eu-west-1:123456789012:document/a",
        ] {
            assert!(
                matches!(AwsDocument::parameter(place, aws("eu-west-1"), Tls::default()), Err(InvalidPlaceError::Arn)),
                "{place}"
            );
        }
    }

    #[test]
    fn an_error_of_aws_has_a_code() {
        for (body, code) in [
            ("<Error><Code>AccessDenied</Code><Message>no</Message></Error>", Some("AccessDenied")),
            (r#"{"__type":"ParameterNotFound"}"#, Some("ParameterNotFound")),
            (r#"{"__type": "com.amazonaws.ssm#InvalidKeyId", "message": "x"}"#, Some("InvalidKeyId")),
            ("<html>", None),
            ("<Code>a\nb</Code>", None),
            ("<Code>", None),
        ] {
            assert_eq!(error_code(body.as_bytes()), code, "{body}");
        }
    }
}
