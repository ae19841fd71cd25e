//! The clients of one run of the program, connected when first needed.

use std::time::{SystemTime, UNIX_EPOCH};

use cri_client::{AdminClient, ImageClient, RuntimeClient};
use tokio::sync::OnceCell;

use crate::settings::Settings;

/// What a command works with.
pub struct Session {
    pub settings: Settings,
    runtime: OnceCell<RuntimeClient>,
    images: OnceCell<ImageClient>,
    now: fn() -> i64,
}

impl Session {
    pub fn new(settings: Settings) -> Self {
        Self::with_clock(settings, wall_clock)
    }

    /// A session whose ages are counted from `now`.
    pub fn with_clock(settings: Settings, now: fn() -> i64) -> Self {
        Self { settings, runtime: OnceCell::new(), images: OnceCell::new(), now }
    }

    /// Nanoseconds since 1970.
    pub fn now(&self) -> i64 {
        (self.now)()
    }

    /// The client of the runtime service.
    pub async fn runtime(&self) -> Result<&RuntimeClient, cri_client::Error> {
        let Settings { runtime_endpoint, options, .. } = &self.settings;
        self.runtime
            .get_or_try_init(|| RuntimeClient::connect(runtime_endpoint.clone(), *options))
            .await
    }

    /// The client of the image service.
    pub async fn images(&self) -> Result<&ImageClient, cri_client::Error> {
        let Settings { image_endpoint, options, .. } = &self.settings;
        self.images.get_or_try_init(|| ImageClient::connect(image_endpoint.clone(), *options)).await
    }

    /// The client of Corten's own calls.
    pub fn admin(&self) -> AdminClient {
        AdminClient::new(self.settings.image_endpoint.clone(), self.settings.options)
    }
}

fn wall_clock() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
