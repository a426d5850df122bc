//! Tests checkpoints by hub id with a server on the loopback address.
#![allow(clippy::unwrap_used, clippy::expect_used)]
#![cfg(feature = "hub")]

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use atedm_sdxl::hub::{HubSettings, is_hub_id, needed_files, snapshot};

const FILES: [(&str, &str); 8] = [
    ("model_index.json", "{}"),
    ("README.md", "no"),
    ("unet/config.json", "{\"a\":1}"),
    ("unet/diffusion_pytorch_model.safetensors", "plain"),
    ("unet/diffusion_pytorch_model.fp16.safetensors", "half"),
    ("vae/diffusion_pytorch_model.fp16.safetensors", "only half"),
    ("tokenizer/vocab.json", "[]"),
    ("vae_1_0/config.json", "no"),
];

/// A hub with one model. It answers until the test ends, and records each request with its token.
fn serve() -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let log = Arc::new(Mutex::new(Vec::new()));
    let seen = log.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            answer(stream.unwrap(), &seen);
        }
    });
    (endpoint, log)
}

fn answer(mut stream: TcpStream, log: &Mutex<Vec<String>>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let (mut request, mut token, mut range) = (String::new(), String::new(), None);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap() == 0 || line.trim().is_empty() {
            break;
        }
        let lower = line.to_ascii_lowercase();
        if request.is_empty() {
            request = line.split(' ').nth(1).unwrap().to_string();
        } else if lower.starts_with("authorization:") {
            token = line.trim().rsplit(' ').next().unwrap().to_string();
        } else if let Some(bytes) = lower.strip_prefix("range: bytes=") {
            range = Some(bytes.trim().to_string());
        }
    }
    log.lock().unwrap().push(format!("{request} {token}"));
    let file = request.strip_prefix("/org/model/resolve/main/");
    let (status, body, extra) = if request.starts_with("/api/models/org/model") {
        let names: Vec<String> =
            FILES.iter().map(|(name, _)| format!("{{\"rfilename\":\"{name}\"}}")).collect();
        ("200 OK", format!("{{\"sha\":\"c0ffee\",\"siblings\":[{}]}}", names.join(",")), String::new())
    } else if let Some((name, text)) = file.and_then(|f| FILES.iter().find(|(name, _)| *name == f)) {
        let body = if range.as_deref() == Some("0-0") { &text[..1] } else { text };
        let etag = name.replace('/', "-");
        let extra = format!(
            "x-repo-commit: c0ffee\r\netag: \"{etag}\"\r\ncontent-range: bytes 0-{}/{}\r\n",
            body.len() - 1,
            text.len()
        );
        ("206 Partial Content", body.to_string(), extra)
    } else {
        ("404 Not Found", "{}".to_string(), String::new())
    };
    let head =
        format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n{extra}\r\n", body.len());
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body.as_bytes()).unwrap();
}

fn settings(cache: &std::path::Path, endpoint: &str) -> HubSettings {
    HubSettings {
        cache: cache.to_path_buf(),
        endpoint: Some(endpoint.to_string()),
        token: Some("secret".into()),
        offline: false,
        progress: false,
    }
}

#[test]
fn a_model_is_fetched_once_and_then_served_from_the_cache() {
    let cache = tempfile::tempdir().unwrap();
    let (endpoint, log) = serve();
    let settings = settings(cache.path(), &endpoint);
    let folder = snapshot("org/model", None, &settings).unwrap();
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    assert_eq!(read("unet/diffusion_pytorch_model.safetensors"), "plain");
    assert_eq!(read("vae/diffusion_pytorch_model.fp16.safetensors"), "only half");
    assert!(!folder.join("README.md").exists() && !folder.join("vae_1_0").exists());
    assert!(!folder.join("unet/diffusion_pytorch_model.fp16.safetensors").exists());
    assert!(
        log.lock().unwrap().iter().all(|line| line.ends_with(" secret")),
        "every request carries the token"
    );

    let asked = log.lock().unwrap().len();
    let offline = HubSettings { offline: true, ..settings.clone() };
    assert_eq!(snapshot("org/model", None, &offline).unwrap(), folder);
    assert_eq!(log.lock().unwrap().len(), asked, "offline asks nothing");
    let unreachable = HubSettings { endpoint: Some("http://127.0.0.1:9".into()), ..settings };
    assert_eq!(snapshot("org/model", None, &unreachable).unwrap(), folder);
}

#[test]
fn what_is_not_there_is_named() {
    let cache = tempfile::tempdir().unwrap();
    let (endpoint, _) = serve();
    let settings = settings(cache.path(), &endpoint);
    let missing = snapshot("org/other", None, &settings).unwrap_err().to_string();
    assert!(missing.starts_with("org/other: ") && missing.contains("404"), "{missing}");
    let offline = HubSettings { offline: true, ..settings };
    let error = snapshot("org/model", None, &offline).unwrap_err().to_string();
    assert!(error.contains("org/model") && error.contains("HF_HUB_OFFLINE"), "{error}");
}

#[test]
fn the_variant_is_chosen() {
    let names: Vec<String> = FILES.iter().map(|(name, _)| name.to_string()).collect();
    let half = needed_files(&names, Some("fp16"));
    assert!(half.contains(&"unet/diffusion_pytorch_model.fp16.safetensors".to_string()));
    assert!(!half.contains(&"unet/diffusion_pytorch_model.safetensors".to_string()));
}

#[test]
fn ids_are_told_from_folders() {
    assert!(is_hub_id("stabilityai/stable-diffusion-xl-base-1.0"));
    assert!(!is_hub_id("./model/dir") && !is_hub_id("model") && !is_hub_id("../x") && !is_hub_id("/tmp"));
}

#[test]
fn the_environment_is_honoured() {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("token"), "stored\n").unwrap();
    let hf_home = home.path().to_str().unwrap().to_string();
    let of = |pairs: &[(&str, &str)]| {
        let get = |name: &str| pairs.iter().find(|(n, _)| *n == name).map(|(_, value)| value.to_string());
        HubSettings::from_variables(get)
    };
    let settings = of(&[("HF_HOME", &hf_home), ("HF_ENDPOINT", "http://mirror"), ("HF_HUB_OFFLINE", "1")]);
    assert_eq!(settings.cache, home.path().join("hub"));
    assert_eq!(settings.endpoint.as_deref(), Some("http://mirror"));
    assert_eq!(settings.token.as_deref(), Some("stored"));
    assert!(settings.offline);
    let settings = of(&[("HOME", "/home/x"), ("HF_TOKEN", "given"), ("HF_HUB_OFFLINE", "0")]);
    assert_eq!(settings.cache, std::path::Path::new("/home/x/.cache/huggingface/hub"));
    assert_eq!((settings.token.as_deref(), settings.offline), (Some("given"), false));
    assert_eq!(of(&[("HF_HUB_CACHE", "/c")]).cache, std::path::Path::new("/c"));
}
