//! Faults that only HTTP/2 has, from an upstream that takes it over TLS.

use super::super::h2;
use super::super::relay::{End, Fault, Play, Real};
use super::super::table::{
    BOTH, BROKEN, CUT, Charge, Expect, GOOD, How, LATE, Row, SILENT, STREAMED,
};
use super::{NO_BODY, NO_HEAD};

const HTTP2: &str = "HTTP/2";

/// The upstream vouches for not having looked at it.
const UNPROCESSED: Expect =
    Expect { retry: Some("unprocessed"), charge: Charge::Nothing, reused: true, ..BROKEN };

/// The head, half of the body and these frames.
fn half(real: &Real, rest: Vec<u8>, end: End) -> Play {
    let (_, first) = real.halves();
    let frames = [h2::head(real.kind()), h2::data(&first), rest].concat();
    Play::of(frames, end).with(first)
}

pub(super) fn rows() -> Vec<Row> {
    let row = |fault, how, expect| Row {
        stage: HTTP2,
        fault,
        streamed: BOTH,
        how: How::Http2(how),
        expect,
        changes: "",
    };
    vec![
        row("as it should be", Fault::After(h2::whole), GOOD),
        row(
            "stream refused (`REFUSED_STREAM`)",
            Fault::Before(|_| Play::of(h2::reset(h2::REFUSED_STREAM), End::Keep)),
            UNPROCESSED,
        ),
        row(
            "`GOAWAY` that leaves the stream out",
            Fault::Before(|_| Play::of(h2::goodbye(false, h2::NO_ERROR), End::Keep)),
            Expect { reused: false, ..UNPROCESSED },
        ),
        row(
            "`GOAWAY` that includes the stream, then closed",
            Fault::After(|_| Play::of(h2::goodbye(true, h2::NO_ERROR), End::Close)),
            BROKEN,
        ),
        row(
            "`GOAWAY` that includes the stream, then its answer",
            Fault::After(|real| {
                let whole = h2::whole(real);
                Play {
                    pieces: [vec![h2::goodbye(true, h2::NO_ERROR)], whole.pieces].concat(),
                    ..whole
                }
            }),
            GOOD.closed(),
        ),
        row(
            "stream reset before the head (`INTERNAL_ERROR`)",
            Fault::After(|_| Play::of(h2::reset(h2::INTERNAL_ERROR), End::Keep)),
            Expect { reused: true, ..BROKEN },
        ),
        row(
            "stream reset before the head (`ENHANCE_YOUR_CALM`)",
            Fault::After(|_| Play::of(h2::reset(h2::ENHANCE_YOUR_CALM), End::Keep)),
            Expect { reused: true, ..BROKEN },
        ),
        row("closed before the head", Fault::After(|_| Play::of("", End::Close)), BROKEN),
        row(
            "no head (stall)",
            Fault::After(|_| Play::of("", End::Stall)),
            Expect { reused: true, ..LATE },
        )
        .under(NO_HEAD),
        row(
            "a frame of a stream that there is not",
            Fault::After(|_| Play::of(h2::nonsense(), End::Stall)),
            BROKEN,
        ),
        row(
            "stream reset in the body (`CANCEL`)",
            Fault::After(|real| half(real, h2::reset(h2::CANCEL), End::Keep)),
            Expect { reused: true, ..CUT },
        ),
        row("closed in the body", Fault::After(|real| half(real, Vec::new(), End::Close)), CUT),
        row(
            "stall in the body",
            Fault::After(|real| half(real, Vec::new(), End::Stall)),
            Expect { reused: true, ..SILENT },
        )
        .under(NO_BODY),
        Row {
            streamed: STREAMED,
            ..row(
                "stream ends in the middle, in order",
                Fault::After(|real| half(real, h2::end(), End::Keep)),
                Expect { charge: Charge::Held, ..GOOD },
            )
        },
    ]
}
