//! What a client asks about VMs.

use hyper::Method;
use percent_encoding::utf8_percent_encode;
use serde::Serialize;
use tokio::io::AsyncRead;

use super::{Client, ClientError, PLAIN, Running};
use crate::api::wire::{ExecuteRequest, RunRequest, VmInfo, VmRequest};

impl Client {
    /// Runs a program in a VM of its own, which is destroyed afterwards. It is ended if what this
    /// gives is dropped.
    ///
    /// # Errors
    ///
    /// [`ClientError::Refused`] if there is no VM to be had, with the name `too-many-vms` if there
    /// may be one soon; and all else that a [`ClientError`] can be.
    pub async fn execute(&self, request: &ExecuteRequest) -> Result<Running, ClientError> {
        self.run_at("/v1/execute", request, None).await
    }

    /// Like [`execute`](Self::execute), with input that the program reads while it runs. Nothing
    /// is taken of it if there is no VM to be had.
    ///
    /// # Errors
    ///
    /// Those of [`execute`](Self::execute).
    pub async fn execute_with(
        &self,
        request: &ExecuteRequest,
        input: impl AsyncRead + Send + Unpin + 'static,
    ) -> Result<Running, ClientError> {
        self.run_at("/v1/execute", request, Some(Box::new(input))).await
    }

    /// Makes a VM that this user keeps, until it is destroyed or nobody has used it for a while.
    ///
    /// # Errors
    ///
    /// Those of [`execute`](Self::execute).
    pub async fn create_vm(&self, request: &VmRequest) -> Result<VmInfo, ClientError> {
        self.ask(Method::POST, "/v1/vms", request).await
    }

    /// The VMs that this user keeps; for root and the server's own user, those of all.
    ///
    /// # Errors
    ///
    /// All that a [`ClientError`] can be.
    pub async fn vms(&self) -> Result<Vec<VmInfo>, ClientError> {
        self.get("/v1/vms").await
    }

    /// Runs a program in a VM that this user keeps.
    ///
    /// # Errors
    ///
    /// [`ClientError::Refused`] if there is no such VM or another program runs in it, and all else
    /// that a [`ClientError`] can be.
    pub async fn run(&self, vm: &str, request: &RunRequest) -> Result<Running, ClientError> {
        self.run_at(&format!("{}/execute", at(vm)), request, None).await
    }

    /// Destroys a VM, whatever runs in it.
    ///
    /// # Errors
    ///
    /// [`ClientError::Refused`] if there is no such VM, and all else that a [`ClientError`] can be.
    pub async fn destroy_vm(&self, vm: &str) -> Result<(), ClientError> {
        self.exchange(Method::DELETE, &at(vm), None::<&()>).await.map(drop)
    }

    async fn run_at(
        &self,
        path: &str,
        request: &impl Serialize,
        input: Option<Box<dyn AsyncRead + Send + Unpin>>,
    ) -> Result<Running, ClientError> {
        let request = serde_json::to_vec(request)
            .map_err(|error| self.protocol(format!("the request: {error}")))?;
        Running::begin(self.socket(), path, request, input).await
    }
}

fn at(vm: &str) -> String {
    format!("/v1/vms/{}", utf8_percent_encode(vm, PLAIN))
}
