# Builds the service. Nothing of it is needed to try scanlogin: `cargo run` is.
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --locked --release

FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /src/target/release/scanlogin /usr/local/bin/scanlogin
ENV SCANLOGIN_LISTEN=0.0.0.0:8080 SCANLOGIN_OPS_LISTEN=0.0.0.0:9090
EXPOSE 8080 9090
ENTRYPOINT ["scanlogin"]
