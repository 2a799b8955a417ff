# The image: one static program, the certificate authorities that it trusts, a list of what it is built from, and nothing else.
# scripts/image builds it on a machine that has Rust: the last stage with what the script lays out there in the place of the first.
FROM rust:1.95.0-bookworm AS build
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates musl-tools python3 \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY rust-toolchain.toml ./
RUN rustup target add "$(uname -m)-unknown-linux-musl"
# Without a line of ours: a layer that stays until a dependency changes.
COPY Cargo.toml Cargo.lock ./
RUN mkdir -p src tests/support \
    && touch src/lib.rs \
    && echo 'fn main() {}' | tee src/main.rs >tests/support/leaks.rs \
    && cargo build --locked --release --target "$(uname -m)-unknown-linux-musl"
COPY LICENSE ./
COPY scripts/image scripts/sbom scripts/
COPY assets assets
COPY web/dist web/dist
COPY src src
RUN touch src/lib.rs src/main.rs && scripts/image --tree /tree

FROM scratch
# As in Cargo.toml, which a test sees to.
ARG VERSION=0.1.0
# The address of the repository, and the commit.
ARG SOURCE=
ARG REVISION=
LABEL org.opencontainers.image.title="scanlogin" \
      org.opencontainers.image.description="Scan with WeChat to log in, for any website, through a Mini Program" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.source="$SOURCE" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.licenses="MIT"
COPY --from=build /tree/root/ /
# A volume that is new takes over the owner of what it is mounted on: so /keys can be written to by who runs here.
COPY --from=build --chown=65532:65532 /tree/owned/ /
USER 65532:65532
ENV SCANLOGIN_LISTEN=0.0.0.0:8080 SCANLOGIN_OPS_LISTEN=0.0.0.0:9090
EXPOSE 8080 9090
HEALTHCHECK --interval=5s --timeout=3s --start-period=30s --retries=3 CMD ["/scanlogin", "healthcheck"]
ENTRYPOINT ["/scanlogin"]
