//! Builders for tests.

use crate::jobs::Submission;
use zoetrope_protocol::clip::Size;
use zoetrope_protocol::id::{JobId, TenantId};
use zoetrope_protocol::job::{Class, ExpiresAfter, JobSpec, RenderSpec};

/// A request for a clip of four seconds; its content differs from that of every other job.
pub fn submission(job: u128) -> Submission {
    let size = Size { width: 288, height: 512 };
    let render = RenderSpec {
        model: "toybox".to_owned(),
        prompt: "a red ball bounces".to_owned(),
        canvas: size,
        deliver: size,
        frames: 96,
        seed: 1,
        steps: 4,
        audio: true,
    };
    let spec = JobSpec {
        tenant: TenantId(1),
        class: Class::Default,
        asked_model: "sora-2".to_owned(),
        render,
        deadline: None,
        metadata: Vec::new(),
        safety_identifier: None,
        expires_after: ExpiresAfter { from_completion: true, seconds: 3_600 },
        warnings: Vec::new(),
    };
    let mut content = [0; 32];
    content[..16].copy_from_slice(&job.to_le_bytes());
    Submission { job: JobId(job), spec, content, idempotency: None }
}
