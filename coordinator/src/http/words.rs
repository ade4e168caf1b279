//! The words of the contract that the door counts by: closed sets, whose series exist from the start.

use zoetrope_protocol::words;

words! {
    /// The code of an error, where the contract has one for it.
    Code {
        /// A required field is absent.
        MissingParameter = "missing_required_parameter",
        /// The endpoint has no such field.
        UnknownParameter = "unknown_parameter",
        /// The model cannot honour a field.
        UnsupportedParameter = "unsupported_parameter",
        /// A field has the wrong type.
        InvalidType = "invalid_type",
        /// A value is outside of its limits.
        InvalidValue = "invalid_value",
        /// Bytes are no picture, or no video.
        InvalidMedia = "invalid_input_media",
        /// Moderation stopped it.
        ModerationBlocked = "moderation_blocked",
        /// Nobody can judge now.
        ModerationUnavailable = "moderation_unavailable",
        /// The operator banned the end user.
        EndUserBanned = "safety_identifier_blocked",
        /// The estimate is after the deadline.
        DeadlineInfeasible = "deadline_infeasible",
        /// The API key is missing, wrong or revoked.
        InvalidKey = "invalid_api_key",
        /// The project is not the key's.
        MismatchedProject = "mismatched_project",
        /// The body is over the limit.
        TooLarge = "request_too_large",
        /// The video has ended.
        AlreadyTerminal = "video_already_terminal",
        /// The video has no content yet, or never will.
        NotReady = "video_not_ready",
        /// The content of the video is gone.
        Expired = "video_expired",
        /// There is no such model.
        NoModel = "model_not_found",
        /// The first request with the idempotency key still runs.
        KeyInUse = "idempotency_key_in_use",
        /// The idempotency key was used with other content.
        KeyReused = "idempotency_key_reused",
        /// The API key sends more than it may.
        RateLimited = "rate_limit_exceeded",
        /// The project's queue is full.
        QueueFull = "concurrency_limit_exceeded",
        /// The farm has too much to do, or does not answer.
        Overloaded = "server_is_overloaded",
    }
}

words! {
    /// Why an answer is that of an earlier request.
    Replay {
        /// The caller gave both the same idempotency key.
        Key = "key",
        /// An SDK sent the request again.
        SdkResend = "sdk_resend",
    }
}
